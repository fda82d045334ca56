"""What a frame costs, from a numpy frame to masks on the host, against the project's bars and PyTorch's own predictor.

    sam2edge build out/tiny && sam2edge build out/large
    python samples/gpu_speed.py out/tiny out/large --source MODEL [--compile] [--backend tensorrt] [--csv FILE]

Every row runs in a fresh process: objects are prompted by boxes on the first frame of the clip, which then repeats. Not
timed are reading the clip and the frames of the warm-up, in which the bank fills. "Host" is the part of a frame
outside of waiting for graphs: Python, resizing the frame, masks of its size. MODEL is what was exported as the first
bundle; PyTorch is transformers' Sam2VideoModel on CUDA under bfloat16 autocast, as upstream runs (float32 on a CPU).
With --compile also with its four parts through torch.compile.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
from demo import CLIP
from objects_speed import boxes

from sam2edge import Bundle, VideoTracker
from sam2edge.bundle import GRAPHS, contract
from sam2edge.errors import Sam2EdgeError
from sam2edge.runtime.backend import open_backend
from sam2edge.runtime.sources import VideoSource

BARS_MS = {("tiny", 1): 4.5, ("tiny", 8): 20.0, ("large", 1): 14.0}
WARM_UP = 24  # frames until the bank is full (16 pointers) and recorded


def watched(backend):
    """Let a backend add up the seconds for which its caller waits for graphs, in a list of one number."""
    waited, inside = [0.0], []

    def timed(call):
        def wait(*arguments):
            inside.append(call)
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                inside.pop()
                if not inside:  # one may call the other
                    waited[0] += time.perf_counter() - start

        return wait

    def opened(graph, unwatched=backend.open):
        runner = unwatched(graph)
        runner.run, runner.run_into = timed(runner.run), timed(runner.run_into)
        return runner

    backend.open, backend.synchronize = opened, timed(backend.synchronize)
    return waited


def clip_frames(count):
    """Frames of the clip, again and again, and boxes of `count` objects on the first."""
    with VideoSource(CLIP) as source:
        frames = list(source)
        return cycle(frames), boxes(count, source.height, source.width)


def gpu_bytes():
    """Bytes of GPU memory in use; None without pycuda."""
    try:
        import pycuda.autoprimaryctx
        import pycuda.driver
    except ImportError:
        return None
    free, total = pycuda.driver.mem_get_info()
    return total - free


def resident_bytes():
    """Memory of this process on the host."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def statistics(seconds):
    """Median and p99 of the frames after the warm-up, in ms; the first frame's too."""
    timed = 1e3 * np.array(seconds[WARM_UP:])
    return {"median": median(timed), "p99": float(np.percentile(timed, 99)), "first": 1e3 * seconds[0]}


def track(bundle, backend, objects, count):
    """A row: frames of the tracker."""
    before = gpu_bytes()
    device, (frames, prompts) = open_backend(backend), clip_frames(objects)
    waited = watched(device)
    seconds, host, memory = [], [], []
    with VideoTracker(bundle, device, max_objects=objects) as tracker:
        for index, frame in enumerate(islice(frames, WARM_UP + count)):
            start, waited[0] = time.perf_counter(), 0.0
            assert len(tracker.track(frame).masks) == (objects if index else 0)
            seconds.append(time.perf_counter() - start)
            host.append(seconds[-1] - waited[0])
            for object_id, box in enumerate(prompts) if index == 0 else ():
                tracker.prompt(object_id, box=box)
            if index in (WARM_UP, WARM_UP + count - 1):
                memory.append([gpu_bytes(), resident_bytes()])
        (gpu, resident), (gpu_end, resident_end) = memory
        return {
            **statistics(seconds),
            "host": 1e3 * median(host[WARM_UP:]),
            "gpu_mib": None if before is None else (gpu_end - before) / 2**20,
            "growth_mib": (resident_end - resident + (0 if gpu is None else gpu_end - gpu)) / 2**20,
        }


def graphs(bundle, backend, objects, count):
    """A row: each graph alone with a full bank, on device arrays."""
    opened, device, found = Bundle.open(bundle), open_backend(backend), {}
    sizes = {"B": 1, "N": objects, "T": opened.model.memory_frames + 1, "K": opened.model.max_pointers, "P": 2}
    for name in GRAPHS:
        runner = device.open(opened.graph_path(name))
        inputs, outputs = (
            {
                spec.name: device.zeros(
                    tuple(sizes.get(side, side) for side in spec.shape),
                    runner.dtype(spec.name) if spec.dtype == "float32" else spec.dtype,
                )
                for spec in specs
            }
            for specs in contract(opened.model)[name]
        )
        seconds = []
        for _ in range(3 + count):
            start = time.perf_counter()
            runner.run_into(inputs, outputs)
            device.synchronize()
            seconds.append(time.perf_counter() - start)
        found[name] = 1e3 * median(seconds[3:])
    return found


def pytorch(source, mode, objects, count):
    """A row: transformers' predictor on the same frames."""
    import torch
    from score_pytorch import preprocess
    from transformers import Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Sam2VideoModel.from_pretrained(source, dtype=torch.float32).eval().to(device)
    for part in ("vision_encoder", "memory_attention", "mask_decoder", "memory_encoder") if mode == "compile" else ():
        setattr(model, part, torch.compile(getattr(model, part), mode="max-autotune-no-cudagraphs"))
    side, (frames, prompts), seconds = model.config.image_size, clip_frames(objects), []
    places = dict.fromkeys(("inference_device", "inference_state_device", "video_storage_device"), device)
    session = Sam2VideoInferenceSession(video_height=side, video_width=side, dtype=torch.float32, **places)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        for index, frame in enumerate(islice(frames, WARM_UP + count)):
            start = time.perf_counter()
            (pixels,) = preprocess(frame[None], side, device)
            for object_id, box in enumerate(prompts) if index == 0 else ():
                corners = torch.tensor(box.reshape(1, 1, 2, 2) * side / np.array(frame.shape[1::-1])).float()
                labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
                points = {"point_coords": corners.to(device), "point_labels": labels.to(device)}
                session.add_point_inputs(session.obj_id_to_idx(object_id), 0, points)
                session.obj_with_new_inputs.append(object_id)
            logits = model(session, frame=pixels).pred_masks.float()
            masks = torch.nn.functional.interpolate(logits, frame.shape[:2], mode="bilinear") > 0
            assert len(masks.cpu()) == objects
            seconds.append(time.perf_counter() - start)
    return statistics(seconds)


def row(kind, *arguments):
    """Run a row in a process of its own."""
    command = [sys.executable, __file__, "--row", json.dumps([kind, *arguments])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the row {kind} {arguments} failed; what went wrong is above")
    return json.loads(done.stdout.splitlines()[-1])


def told(value, bar):
    """What a bar says of a value that must not be above it."""
    return f"bar {bar:g}: {'kept' if value <= bar else 'MISSED'}"


def plan(args):
    """The rows: what each is called, and its arguments."""
    rows = []
    for bundle in args.bundles:
        name = f"{bundle} ({Bundle.open(bundle).manifest.source.size})"
        rows += [(f"{name}, {n} objects", ("track", bundle, args.backend, n, args.frames)) for n in args.objects]
        rows.append((f"{name}, graphs alone, 1 object", ("graphs", bundle, args.backend, 1, args.frames)))
    for mode in ("eager", "compile")[: 1 + args.compile] if args.source else ():
        rows += [(f"PyTorch {mode}, {n} objects", ("pytorch", args.source, mode, n, args.frames)) for n in args.objects]
    memory = ("track", args.bundles[0], args.backend, 1, args.long)
    return [*rows, (f"{args.bundles[0]}, memory over {args.long} frames", memory)]


def judged(name, arguments, found, ours):
    """A row as text, with the bars that it has. ours: medians of the first bundle by objects."""
    kind = arguments[0]
    if kind == "graphs":
        return f"{name}: " + ", ".join(f"{graph} {ms:.2f} ms" for graph, ms in found.items())
    if name.endswith("frames"):
        return f"{name}: grows by {found['growth_mib']:.1f} MiB, host and GPU ({told(found['growth_mib'], 8)})"
    text = f"{name}: median {found['median']:.2f} ms, p99 {found['p99']:.2f}, first {found['first']:.0f}"
    if kind == "pytorch":
        mode, n = arguments[2:4]
        return f"{text}; {found['median'] / ours[n]:.2f} × ours (bar: at least {4 if mode == 'eager' else 2})"
    size, n = Bundle.open(arguments[1]).manifest.source.size, arguments[3]
    memory = "" if found["gpu_mib"] is None else f"; GPU memory {found['gpu_mib']:.0f} MiB"
    text = f"{text}; host {found['host']:.2f} ms{memory}"
    if (size, n) in BARS_MS:
        ratio = found["p99"] / found["median"]
        text += f"; median: {told(found['median'], BARS_MS[size, n])}; p99 {ratio:.2f} × median: {told(ratio, 1.3)}"
    if (size, n) == ("tiny", 1):
        text += f"; host: {told(found['host'], 0.3)}" + (f"; memory: {told(found['gpu_mib'], 1024)}" if memory else "")
    return text


def main(args):
    """Run all rows and print them as they come."""
    rows, ours, table = plan(args), {}, []
    try:
        device = open_backend(args.backend)
        for bundle in args.bundles:
            device.open(Bundle.open(bundle).graph_path("mask_decoder"))
    except Sam2EdgeError as error:
        print(f"the backend {args.backend} does not run here: {error}\nRows that would be printed:", file=sys.stderr)
        print("\n".join(f"  {name}" for name, _ in rows), file=sys.stderr)
        raise SystemExit(1) from error
    for name, arguments in rows:
        found = row(*arguments)
        if arguments[:2] == ("track", args.bundles[0]):
            ours.setdefault(arguments[3], found["median"])
        table.append({"row": name, **found})
        print(judged(name, arguments, found, ours), flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for entry in table for key in entry)))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        kind, *rest = json.loads(sys.argv[2])
        print(json.dumps({"track": track, "graphs": graphs, "pytorch": pytorch}[kind](*rest)))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
        parser.add_argument("--backend", default="tensorrt")
        parser.add_argument("--objects", type=int, nargs="+", default=[1, 4, 8])
        parser.add_argument("--source", metavar="MODEL")
        parser.add_argument("--compile", action="store_true")
        parser.add_argument("--frames", type=int, default=300)
        parser.add_argument("--long", type=int, default=2000)
        parser.add_argument("--csv", type=Path)
        main(parser.parse_args())
