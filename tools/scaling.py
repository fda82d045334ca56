"""The scaling model of docs/explanation/scaling.md: what labelling costs, and what is its bottleneck.

    python -m tools.scaling
prints the page's tables. A worker decodes in one thread, and tracks and writes in another; so a frame takes a worker at
least what the slower of the two takes, and a GPU that workers share at least what its graphs take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """Seconds of one core.

    Attributes:
        decode: For a megapixel of a video (H.264).
        output: For an object: its mask as run lengths, in a line of JSON.
        pixels: The same, in addition for each megapixel of the frame.
    """

    decode: float
    output: float
    pixels: float


@dataclass(frozen=True)
class Graphs:
    """Seconds of what runs the graphs: of a frame, whatever is in it, and in addition of each object."""

    frame: float
    object: float


@dataclass(frozen=True)
class Load:
    """What a frame of the videos is: megapixels and objects."""

    megapixels: float
    objects: int


@dataclass(frozen=True)
class Cost:
    """Seconds that a frame takes of a decoding thread, of an output thread, and of what runs the graphs."""

    decode: float
    output: float
    graphs: float

    @property
    def host(self) -> float:
        """Seconds of a core beside the graphs."""
        return self.decode + self.output

    def on_cores(self, cores: int) -> float:
        """Return frames a second where the cores also run the graphs, one worker on each."""
        return cores / (self.host + self.graphs)

    def on_gpu(self, cores: int, workers: int) -> tuple[float, str]:
        """Return frames a second of one GPU with so many cores and workers, and what holds them back."""
        limits = {
            "GPU": 1 / self.graphs,
            "cores": cores / self.host,
            "workers": workers / max(self.decode, self.output + self.graphs),
        }
        name = min(limits, key=lambda name: limits[name])
        return limits[name], name


def cost(host: Host, graphs: Graphs, load: Load) -> Cost:
    """Return what a frame costs."""
    output = load.objects * (host.output + host.pixels * load.megapixels)
    return Cost(host.decode * load.megapixels, output, graphs.frame + load.objects * graphs.object)


MEASURED = Host(decode=7.2e-3, output=0.6e-3, pixels=0.58e-3)
"""On one core of the page's machine."""
FRAMES = {"720p": 1280 * 720 / 1e6, "1080p": 1920 * 1080 / 1e6}
GPUS = {
    ("tiny", "L4"): (Graphs(2.37e-3, 3.61e-3), Graphs(15.1e-3, 18.8e-3)),
    ("tiny", "A10"): (Graphs(2.29e-3, 3.49e-3), Graphs(7.79e-3, 9.65e-3)),
    ("tiny", "A100"): (Graphs(0.92e-3, 1.39e-3), Graphs(2.41e-3, 3.14e-3)),
    ("tiny", "H100"): (Graphs(0.29e-3, 0.44e-3), Graphs(1.35e-3, 1.66e-3)),
    ("large", "L4"): (Graphs(15.0e-3, 3.61e-3), Graphs(55.3e-3, 18.8e-3)),
    ("large", "A10"): (Graphs(14.5e-3, 3.49e-3), Graphs(32.1e-3, 9.65e-3)),
    ("large", "A100"): (Graphs(5.82e-3, 1.39e-3), Graphs(10.7e-3, 3.14e-3)),
    ("large", "H100"): (Graphs(1.84e-3, 0.44e-3), Graphs(5.23e-3, 1.66e-3)),
}
"""Floor and as written, of `sam2edge inspect --device`: models at 1024 with a full memory bank, in FP16."""


def hours_table(videos: int = 1000, frames: int = 900, objects: int = 3) -> Iterable[tuple[str, ...]]:
    """Yield the rows of the table of hours."""
    yield "model", "GPU", "frames", "GPU hours: floor", "as written", "core hours", "cores a GPU"
    hours = videos * frames / 3600
    for (model, gpu), bounds in GPUS.items():
        for name, megapixels in FRAMES.items():
            floor, written = (cost(MEASURED, graphs, Load(megapixels, objects)) for graphs in bounds)
            numbers = [hours * seconds for seconds in (floor.graphs, written.graphs, written.host)]
            cores = [f"{each.host / each.graphs:.1f}" for each in (written, floor)]
            yield model, gpu, name, *(f"{number:.1f}" for number in numbers), " to ".join(cores)


def main() -> None:
    """Print the tables."""
    head, *rows = hours_table()
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
