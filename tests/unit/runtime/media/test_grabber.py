"""The grabber, with sources that stall, vanish, change size and send things that are not frames.

Sources wait for events, not for time, wherever the grabber does not measure time itself.
"""

import threading
import time

import cv2
import numpy as np
import pytest

from sam2edge.errors import InputError, MediaError
from sam2edge.runtime.media.grabber import Grabber, Reconnect, Statistics
from sam2edge.runtime.media.sources import ArraySource
from tests.simulated import PATIENCE, Simulated, failing, grey, opening

AT_ONCE = Reconnect(first=0, longest=0)


def values(grabbed):
    return [int(frame.pixels[0, 0, 0]) for frame in grabbed]


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


# policies


def test_every_frame():
    source = Simulated(*map(grey, range(50)), live=False)
    before = time.monotonic()
    with Grabber(lambda: source) as grabber:
        grabbed = list(grabber)
        assert grabber.ended
    assert values(grabbed) == list(range(50))
    assert [frame.number for frame in grabbed] == list(range(50))
    arrived = [before, *(frame.arrived for frame in grabbed), time.monotonic()]
    assert arrived == sorted(arrived)
    assert grabber.statistics == Statistics(delivered=50)
    assert source.closed.wait(PATIENCE)


def test_every_frame_makes_the_source_wait():
    source = Simulated(*map(grey, range(50)), live=True)
    with Grabber(lambda: source, "every", stall_timeout=0.4) as grabber:
        first = grabber.read()
        # Four frames wait, and the reader holds one.
        wait_for(lambda: source.given == 6)
        time.sleep(0.5)  # longer than the stall timeout, but a source that has to wait does not stall
        assert source.given == 6
        rest = [grabber.read() for _ in range(49)]
    assert values([first, *rest]) == list(range(50))
    assert grabber.statistics == Statistics(delivered=50)


def test_latest_frame():
    done, more = threading.Event(), threading.Event()
    source = Simulated(*map(grey, range(10)), done.set, more, grey(10), live=True)
    with Grabber(lambda: source) as grabber:
        assert done.wait(PATIENCE)
        newest = grabber.read()
        more.set()
        assert values([newest, grabber.read()]) == [9, 10]
    assert newest.number == 9
    assert grabber.statistics == Statistics(delivered=2, dropped=9)


def test_latest_frame_of_a_source_that_ends():
    done = threading.Event()
    with Grabber(lambda: Simulated(*map(grey, range(10)), done.set, live=False), "latest") as grabber:
        assert done.wait(PATIENCE)
        assert values(grabber) == [9]
    assert grabber.statistics == Statistics(delivered=1, dropped=9)


def test_numbers_of_the_source():
    with Grabber(lambda: ArraySource([grey(0, (20, 30))], fps=7, name="mine")) as grabber:
        assert (grabber.name, grabber.live, grabber.fps, grabber.frame_count) == ("mine", False, 7, 1)
        assert (grabber.width, grabber.height) == (30, 20)


def test_times():
    """Those of the source; a live one's go on when it is opened again, although its own start anew."""

    class Stamped(Simulated):
        def __iter__(self):
            for number, frame in enumerate(super().__iter__()):
                self.time = number * 0.5
                yield frame

    with Grabber(lambda: Stamped(grey(0), None, grey(1), live=False)) as grabber:
        assert [grabbed.time for grabbed in grabber] == [0, 1]
    cameras = opening(Stamped(grey(0), grey(1)), Stamped(grey(2), grey(3), threading.Event()))
    with Grabber(cameras, "every", reconnect=Reconnect(first=0.2)) as grabber:
        times = [grabber.read().time for _ in range(4)]
    assert (times[0], times[1], times[3] - times[2]) == pytest.approx((0, 0.5, 0.5))
    assert 0.2 < times[2] < PATIENCE
    with Grabber(lambda: Simulated(grey(0), live=False)) as grabber:
        assert grabber.read().time is None, "the source does not say"


def test_wait_for_a_frame():
    more = threading.Event()
    with Grabber(lambda: Simulated(more, grey(1), live=False)) as grabber:
        assert grabber.read(timeout=0) is None
        assert grabber.read(timeout=0.05) is None
        assert not grabber.ended
        more.set()
        assert values([grabber.read(timeout=PATIENCE)]) == [1]
        assert grabber.read() is None
        assert grabber.ended
        assert grabber.read() is None


# broken frames and other sizes


@pytest.mark.parametrize("live", [True, False])
def test_broken_frames_are_skipped(live):
    broken = [None, grey(9).astype(np.float32), grey(9)[..., 0], MediaError("a.png: no image"), grey(9)[:0]]
    reports = []
    source = Simulated(grey(0), *broken, grey(1), None, grey(2), live=live)
    with Grabber(lambda: source, "every", report=reports.append) as grabber:
        grabbed = [grabber.read() for _ in range(3)]
    assert values(grabbed) == [0, 1, 2]
    assert [frame.number for frame in grabbed] == [0, 6, 8]
    assert grabber.statistics == Statistics(delivered=3, broken=6)
    # One report for several in a row.
    got_none = "a frame must be a numpy array uint8 [H,W,3] (RGB) but got NoneType"
    assert reports == [f"camera: frame {i} is skipped: {got_none}" for i in (1, 7)]


def test_sizes_that_change():
    chequered = (np.indices((48, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)
    frame = np.repeat(chequered[..., None], 3, axis=2)
    double = frame.repeat(2, axis=0).repeat(2, axis=1)
    half = grey(70, (24, 32))
    reports = []
    source = Simulated(frame, double, double, half, frame, live=False)
    with Grabber(lambda: source, report=reports.append) as grabber:
        grabbed = list(grabber)
    assert [frame.pixels.shape for frame in grabbed] == [(48, 64, 3)] * 5
    for same in (*grabbed[:3], grabbed[4]):
        assert np.array_equal(same.pixels, frame)
    assert (grabbed[3].pixels == 70).all()
    assert grabber.statistics == Statistics(delivered=5, resized=3)
    sizes = ("128×96", "32×24", "64×48")
    assert reports == [f"camera: frames are now {size}, delivered as 64×48" for size in sizes]


# sources that vanish


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        (failing(MediaError("camera: died")), "died"),
        (failing(OSError("no device")), "no device"),
        (failing(cv2.error("bad ioctl")), "bad ioctl"),
        (lambda: None, "it gives no more frames"),
    ],
)
def test_live_source_is_opened_again(step, cause):
    first, second = Simulated(grey(0), grey(1), step), Simulated(grey(2), threading.Event())
    reports = []
    open_next = opening(first, second)
    with Grabber(open_next, "every", reconnect=AT_ONCE, report=reports.append) as grabber:
        grabbed = [grabber.read() for _ in range(3)]
        assert first.closed.is_set()
    assert values(grabbed) == [0, 1, 2]
    assert [frame.number for frame in grabbed] == [0, 1, 2]
    assert grabber.statistics == Statistics(delivered=3, reconnects=1)
    assert reports == [f"camera: lost ({cause}); trying again in 0 s", "camera: back at attempt 1"]


def test_another_size_after_the_reconnect():
    second = Simulated(grey(5, (96, 128)), threading.Event(), size=(96, 128))
    with Grabber(opening(Simulated(grey(0)), second), "every", reconnect=AT_ONCE) as grabber:
        assert [grabber.read().pixels.shape for _ in range(2)] == [(48, 64, 3)] * 2
        assert (grabber.width, grabber.height) == (64, 48)
    assert grabber.statistics == Statistics(delivered=2, resized=1, reconnects=1)


def test_back_off_and_giving_up():
    reports = []
    last = MediaError("still not there")
    sources = [Simulated(grey(0)), *[MediaError("not there")] * 2, Simulated(grey(1)), MediaError("gone"), *[last] * 3]
    reconnect = Reconnect(first=0.01, factor=3, longest=0.05, attempts=4)
    with Grabber(opening(*sources), "every", reconnect=reconnect, report=reports.append) as grabber:
        assert values([grabber.read(), grabber.read()]) == [0, 1]
        message = r"camera: lost \(still not there\); gave up after 4 attempts"
        with pytest.raises(MediaError, match=message) as caught:
            grabber.read()
        assert caught.value.__cause__ is last
        assert grabber.ended
        assert grabber.read() is None
    # It starts over after the frame in between.
    waits = [text.removesuffix(" s").rsplit(" in ")[-1] for text in reports if "trying" in text]
    assert waits == ["0.01", "0.03", "0.05", "0.01", "0.03", "0.05", "0.05"]
    assert grabber.statistics == Statistics(delivered=2, reconnects=1)


def test_waits_between_attempts():
    opened = []
    sources = opening(Simulated(grey(0)), *[MediaError("gone")] * 2, Simulated(grey(1), threading.Event()))

    def open_next():
        opened.append(time.monotonic())
        return sources()

    with Grabber(open_next, "every", reconnect=Reconnect(first=0.05, longest=0.1)) as grabber:
        assert values([grabber.read(), grabber.read()]) == [0, 1]
    assert all(np.diff(opened) >= (0.05, 0.1, 0.1))


def test_no_attempts():
    with (
        Grabber(opening(Simulated(grey(0))), reconnect=Reconnect(attempts=0)) as grabber,
        pytest.raises(MediaError, match="gave up after 0 attempts"),
    ):
        list(grabber)
    assert grabber.statistics.delivered == 1


@pytest.mark.parametrize(("error", "live"), [(MediaError("disk gone"), False), (TypeError("bad operand"), True)])
def test_fault_of_a_file_or_mistake_in_a_source_is_raised_as_it_is(error, live):
    source = Simulated(grey(0), grey(1), failing(error), live=live)
    with Grabber(opening(source), "every") as grabber:
        assert values([grabber.read(), grabber.read()]) == [0, 1]
        with pytest.raises(type(error)) as caught:
            grabber.read()
        assert caught.value is error
        assert grabber.ended


def test_a_source_that_never_worked_is_not_tried_again():
    with pytest.raises(MediaError, match=r"^/dev/video0: no such camera$"):
        Grabber(opening(MediaError("/dev/video0: no such camera"), Simulated(grey(0))))


# sources that stall


def test_stalled_source_is_abandoned():
    release, second_end = threading.Event(), threading.Event()
    stalled = Simulated(grey(0), release, grey(99), grey(99))
    reports = []
    open_next = opening(stalled, Simulated(grey(1), second_end, grey(2), threading.Event()))
    with Grabber(open_next, "every", reconnect=AT_ONCE, stall_timeout=0.2, report=reports.append) as grabber:
        assert values([grabber.read(), grabber.read()]) == [0, 1]
        assert stalled.interrupted
        # It comes back, but its frames are stale, and it is closed.
        release.set()
        assert stalled.closed.wait(PATIENCE)
        second_end.set()
        assert values([grabber.read()]) == [2]
    assert stalled.given == 2, "one stale frame was read, and refused"
    assert grabber.statistics == Statistics(delivered=3, reconnects=1, stalls=1)
    assert reports == ["camera: lost (no frame for 0.2 s); trying again in 0 s", "camera: back at attempt 1"]


def test_opening_that_stalls():
    release = threading.Event()
    late = Simulated(grey(99))
    sources = iter([Simulated(grey(0)), None, Simulated(grey(1), threading.Event())])

    def open_next():
        source = next(sources)
        if source is None:
            assert release.wait(PATIENCE)
            return late
        return source

    with Grabber(open_next, "every", reconnect=AT_ONCE, stall_timeout=0.2) as grabber:
        assert values([grabber.read(), grabber.read()]) == [0, 1]
        release.set()
        assert late.closed.wait(PATIENCE)
    assert grabber.statistics == Statistics(delivered=2, reconnects=1, stalls=1)


def test_only_broken_frames_are_a_stall():
    stop = threading.Event()

    class Broken(Simulated):
        def __iter__(self):
            yield grey(0)
            while not stop.wait(0.005):
                yield None

    open_next = opening(Broken(), Simulated(grey(1), threading.Event()))
    with Grabber(open_next, "every", reconnect=AT_ONCE, stall_timeout=0.1) as grabber:
        assert values([grabber.read(), grabber.read()]) == [0, 1]
        stop.set()
    assert grabber.statistics.stalls == 1
    assert grabber.statistics.broken > 1


def test_file_that_is_slow_does_not_stall():
    more = threading.Event()
    with Grabber(lambda: Simulated(grey(0), more, grey(1), live=False), stall_timeout=0.05) as grabber:
        grabber.read()
        assert grabber.read(timeout=0.2) is None
        more.set()
        assert values(grabber) == [1]
    assert grabber.statistics == Statistics(delivered=2)


# closing


def test_close_while_the_reader_is_stuck():
    release = threading.Event()
    source = Simulated(grey(0), release)
    grabber = Grabber(lambda: source)
    grabber.read()
    started = time.monotonic()
    grabber.close()
    assert time.monotonic() - started < 1
    assert source.interrupted
    assert grabber.ended
    assert list(grabber) == []
    grabber.close()
    release.set()
    assert source.closed.wait(PATIENCE)


@pytest.mark.parametrize("last", [threading.Event(), lambda: None], ids=["stalled", "backing off"])
def test_close_from_another_thread_ends_the_iteration(last):
    grabber = Grabber(opening(Simulated(grey(0), last)), reconnect=Reconnect(first=100, longest=100), stall_timeout=100)
    got = []
    thread = threading.Thread(target=lambda: got.extend(grabber))
    thread.start()
    wait_for(lambda: grabber.statistics.delivered)
    started = time.monotonic()
    grabber.close()
    thread.join(PATIENCE)
    assert time.monotonic() - started < 1
    assert not thread.is_alive()
    assert values(got) == [0]


def test_close_while_the_source_waits():
    source = Simulated(*map(grey, range(50)), live=False)
    with Grabber(lambda: source) as grabber:
        wait_for(lambda: source.given == 5)
    assert source.closed.wait(PATIENCE)
    assert source.given == 5
    assert grabber.read() is None


# reports and arguments


def test_report_may_use_the_grabber():
    """It is called without the lock, in the thread that calls read."""
    seen = []

    def report(text):
        other = threading.Thread(target=lambda: seen.append((text, grabber.statistics.broken)))
        other.start()
        other.join(PATIENCE)
        assert threading.current_thread() is threading.main_thread()
        assert not other.is_alive()

    with Grabber(lambda: Simulated(None, grey(0), live=False), report=report) as grabber:
        assert values(grabber) == [0]
    assert [broken for _, broken in seen] == [1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grabber(Simulated, "newest"), "unknown policy 'newest'; use one of every, latest"),
        (lambda: Grabber(Simulated, stall_timeout=0), "stall_timeout must be above 0 seconds but is 0"),
        (lambda: Reconnect(first=-1), "expected 0 ≤ first"),
        (lambda: Reconnect(first=2, longest=1), "first ≤ longest"),
        (lambda: Reconnect(factor=0.5), "factor ≥ 1"),
        (lambda: Reconnect(longest=float("inf")), "expected 0 ≤ first"),
        (lambda: Reconnect(attempts=-1), "attempts must be 0 or more, or None for no limit, but is -1"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make()
