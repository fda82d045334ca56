"""Track objects in a video on a Triton server that serves what `sam2edge triton` wrote.

    python samples/triton_client.py samples/clip.mp4 '{"box": [101, 47, 176, 122]}' 127.0.0.1:8001

Frames go over one gRPC stream, which keeps their order, as JPEGs; with the word `shared` at the end, as they are
through the shared memory of the server's own machine. Prints number, ids, states, IoUs and RLE counts of each frame.
"""

import itertools
import os
import queue
import sys

import cv2
import numpy as np
import tritonclient.grpc as triton  # pip install "tritonclient[grpc]"
import tritonclient.utils.shared_memory as shm

AHEAD = 3  # frames that are sent before an answer is waited for
NAME = f"sam2-{os.getpid()}"
OUTPUTS = [triton.InferRequestedOutput(name) for name in ("FRAME_INDEX", "IDS", "STATES", "IOUS", "RLE")]


def text(name, value):
    return triton.InferInput(name, [1], "BYTES").set_data_from_numpy(np.array([value], np.object_))


def show(result, error):
    sys.exit(error) if error else print(*(result.as_numpy(output.name()).tolist() for output in OUTPUTS))


def main(video, prompts, server, *shared):
    answers, capture, region = queue.Queue(), cv2.VideoCapture(video), None
    with triton.InferenceServerClient(server) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in itertools.count():
            if number >= AHEAD:
                show(*answers.get())
            if (frame := capture.read()[1]) is None:
                break
            inputs = [] if number else [text("PROMPTS", prompts)]
            if shared:
                size, start = frame.nbytes, number % AHEAD * frame.nbytes  # the frame that lay there was answered
                if not region:
                    region = shm.create_shared_memory_region(NAME, f"/{NAME}", AHEAD * size)
                    client.register_system_shared_memory(NAME, f"/{NAME}", AHEAD * size)
                cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, shm.get_contents_as_numpy(region, np.uint8, frame.shape, start))
                inputs += [triton.InferInput("FRAME", frame.shape, "UINT8").set_shared_memory(NAME, size, start)]
            else:
                inputs += [text("ENCODED", cv2.imencode(".jpg", frame)[1].tobytes())]
            client.async_stream_infer("sam2_video", inputs, "", OUTPUTS, "", NAME, sequence_start=not number)
        for _ in range(min(number, AHEAD - 1)):
            show(*answers.get())
        client.async_stream_infer("sam2_video", [], sequence_id=NAME, sequence_end=True)
    if region:
        shm.destroy_shared_memory_region(region)


main(*sys.argv[1:])
