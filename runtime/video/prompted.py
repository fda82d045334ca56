"""The frames of a source with the results of a tracker that is prompted on some of them."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from sam2edge.errors import PromptError
from sam2edge.runtime.media.grabber import Grabbed
from sam2edge.runtime.media.prompt_files import PromptLine
from sam2edge.runtime.model.result import FrameResult
from sam2edge.runtime.video.follower import Follower
from sam2edge.runtime.video.stream import Tracker, stream
from sam2edge.runtime.video.tracker import VideoTracker


def follow_prompts(
    frames: Iterator[Grabbed],
    tracker: VideoTracker | Follower,
    waiting: collections.deque[PromptLine],
    *,
    start: int = 0,
    mode: str = "latency",
    report: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[Grabbed, FrameResult]]:
    """Yield frames with results, whose numbers are the frames' own.

    Args:
        frames: Of a grabber.
        tracker: Takes the prompts.
        waiting: What `schedule` made of prompts; each is taken out when its frame comes, or, if that was dropped, the
            next one. What is left at the end had no effect.
        start: The first frame that is tracked; those before it have no objects.
        mode: As for `stream`.
        report: Takes what a person should know, as that a prompt's frame was dropped.
    """
    for grabbed in frames:
        if grabbed.number >= start:
            frames = itertools.chain([grabbed], frames)
            break
        yield grabbed, FrameResult.empty(grabbed.number, grabbed.pixels.shape[:2], grabbed.time)
    for tracked in stream(frames, cast("Tracker[Any]", tracker), mode):
        result, number = tracked.result, tracked.grabbed.number
        while waiting and waiting[0].frame <= number:
            given = waiting.popleft()
            if given.frame < number:
                report(f"{given.origin}: frame {given.frame} was lost or dropped; prompted on frame {number}")
            if given.remove:
                tracker.remove(given.object_id)
                result = result.without(given.object_id)
            else:
                prompt = given.prompt
                with prompt.naming():
                    result = tracker.prompt(given.object_id, **prompt.arguments)
        # The tracker counts the frames that it is given.
        yield tracked.grabbed, dataclasses.replace(result, frame_index=number, time=tracked.grabbed.time)


def never_came(waiting: Sequence[PromptLine], count: int, last: int) -> PromptError:
    """Return the error for prompts whose frame never came.

    Args:
        waiting: They, in the order of their frames.
        count: How many prompts there were in all.
        last: The number of the last frame.
    """
    return PromptError(
        f"{waiting[0].origin}: frame {waiting[0].frame} never came, the video ends with frame {last}; prompts without "
        f"effect: {len(waiting)} of {count}"
    )
