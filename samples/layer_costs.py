"""Where a frame's arithmetic and bytes are: counted for the FP16 graphs, nothing is run.

    python samples/layer_costs.py BUNDLE [--objects N] [--tflops 790] [--bandwidth 4.8] [--top 8]
Floor: all products at the device's full speed. Bound: every kernel limited by its arithmetic or its bytes, pointwise
nodes merged, attention not. The defaults are an H200's; bandwidth is in TB/s. The bank is full.
"""

import argparse
import re
from collections import defaultdict

import onnx

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS
from sam2edge.engines.cost import graph_cost, seconds
from sam2edge.engines.half import half


def told(costs, tflops, bandwidth):
    """Kernels, GFLOP, MB, floor and bound of some costs."""
    flops, moved = sum(cost.flops for cost in costs), sum(cost.moved for cost in costs)
    bound = seconds(costs, tflops * 1e12, bandwidth * 1e12)
    return f"{len(costs):4} {flops / 1e9:8.2f} {moved / 1e6:8.1f} {flops / tflops / 1e9:8.3f} {1e3 * bound:8.3f}"


def main(args):
    """Print each graph and the parts of it that take most."""
    opened, device = Bundle.open(args.bundle), (args.tflops, args.bandwidth)
    model = opened.model
    sizes = {"B": 1, "N": args.objects, "T": model.memory_frames + 1, "K": model.max_pointers, "P": 2}
    everything = []
    print(f"{'':38} kernels  GFLOP       MB floor ms bound ms")
    for name in GRAPHS:
        costs = graph_cost(half(onnx.load(opened.graph_path(name))), sizes, fused=True)
        everything += costs
        print(f"{name:40} {told(costs, *device)}")
        parts = defaultdict(list)
        for cost in costs:
            module = re.match(r"/([^/]+)/", cost.name)
            parts[f"{module[1] if module else 'in between'}, {cost.operator}"].append(cost)
        most = sorted(parts.items(), key=lambda part: -seconds(part[1], args.tflops * 1e12, args.bandwidth * 1e12))
        for part, some in most[: args.top]:
            print(f"    {part:36} {told(some, *device)}")
    print(f"{'frame':40} {told(everything, *device)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--tflops", type=float, default=790)
    parser.add_argument("--bandwidth", type=float, default=4.8)
    parser.add_argument("--top", type=int, default=8)
    main(parser.parse_args())
