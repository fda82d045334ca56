"""A session in a thread: playing it, and looking and acting from other threads."""

import threading
import time

import pytest

from sam2edge.errors import InputError, MediaError, PromptError
from sam2edge.runtime.media.sources import ArraySource
from sam2edge.ui.player import Player
from sam2edge.ui.view import Click
from tests.simulated import PATIENCE, Simulated, failing, grey
from tests.unit.ui.conftest import playing


@pytest.fixture
def player(session):
    """Return a running player."""
    with playing(session) as player:
        yield player


@pytest.fixture
def open_clip(player, simulate):
    """Return a function that opens a video of frames in shades of grey: 0, 1, 2, and so on."""

    def open_clip(frames=30, fps=1000.0):
        simulate(ArraySource([grey(n % 256) for n in range(frames)], fps=fps))
        player.open("clip")

    return open_clip


def watch(player, condition):
    """Return all views up to the first that meets a condition."""
    views = [player.wait(-1, PATIENCE)]
    while not condition(views[-1]):
        views.append(player.wait(views[-1].version, PATIENCE))
        assert views[-1], "timed out"
    return views


def test_a_video_waits_on_its_first_frame(player, open_clip):
    open_clip()
    view = player.wait(-1, PATIENCE)
    assert (view.number, view.playing, view.count) == (0, False, 30)
    assert player.wait(view.version, 0.15) is None


def test_a_camera_plays_at_once(player, simulate, released):
    simulate(Simulated(grey(1), grey(2), released, live=True))
    player.open("0")
    views = watch(player, lambda view: view.pixels is not None and view.pixels[0, 0, 0] == 2)
    assert views[-1].playing


def test_a_camera_that_was_open_before_plays_too(session, simulate, released):
    simulate(Simulated(grey(1), released, grey(2), live=True))
    session.open("0")
    with playing(session) as player:
        assert player.wait(-1, PATIENCE).playing
        released.set()
        watch(player, lambda view: view.number == 1)


def test_play_to_the_end(player, open_clip):
    open_clip()
    player.play()
    last = watch(player, lambda view: view.ended)[-1]
    assert (last.number, last.playing) == (29, False)
    assert last.pixels[0, 0, 0] == 29
    with pytest.raises(InputError, match="no frames to play"):
        player.play()


def test_pause_and_step(player, open_clip):
    open_clip(frames=999)
    player.play()
    player.pause()
    paused = player.wait(-1, PATIENCE)
    assert not paused.playing
    player.step()
    assert player.wait(-1, PATIENCE).number == paused.number + 1
    player.play()
    player.step()
    assert not player.wait(-1, PATIENCE).playing


def test_a_file_plays_at_its_own_pace(player, open_clip):
    open_clip(frames=6, fps=20.0)
    start = time.monotonic()
    player.play()
    view = watch(player, lambda view: view.number == 5)[-1]
    assert time.monotonic() - start > 0.19  # the first at once, four intervals of 50 ms
    assert view.rate > 0


def test_a_slow_viewer_gets_the_newest_view(player, open_clip):
    """Views do not queue up: after a long time there is only the last one."""
    open_clip()
    first = player.wait(-1, PATIENCE)
    player.play()
    watch(player, lambda view: view.ended)
    second = player.wait(first.version, PATIENCE)
    assert second.number == 29
    assert player.wait(second.version, 0.01) is None


def test_a_click_on_the_frame_that_is_shown(player, open_clip):
    open_clip()
    player.click(Click(1, 20, 20, 1), seen=player.wait(-1, PATIENCE).serial)
    assert player.wait(-1, PATIENCE).result.object_ids == (1,)
    player.remove(1)
    assert player.wait(-1, PATIENCE).result is None


@pytest.mark.parametrize(("behind", "refused"), [(0, False), (2, False), (3, True)])
def test_a_late_click(session, simulate, behind, refused):
    """While the camera runs a click may be two frames late; then it pauses."""
    gates = [threading.Event() for _ in range(4)]
    frames = [step for n, gate in enumerate(gates) for step in (grey(n), gate)]
    simulate(Simulated(*frames, live=True))
    session.open("0")
    with playing(session) as player:
        for gate in gates[:-1]:  # one by one: a camera's frames may be dropped
            seen = player.wait(-1, PATIENCE).serial
            gate.set()
            last = watch(player, lambda view, seen=seen: view.serial > seen)[-1]
        if refused:
            with pytest.raises(PromptError, match=r"frame is gone \(3 more have come since\); paused, .* click again"):
                player.click(Click(1, 20, 20, 1), last.serial - behind)
        else:
            player.click(Click(1, 20, 20, 1), last.serial - behind)
        view = player.wait(-1, PATIENCE)
        assert view.playing is not refused
        assert (view.result is None) is refused
        gates[-1].set()


def test_a_click_on_the_previous_source(player, simulate, released):
    """The camera runs when the click on the video comes, and only one frame has come since."""
    simulate(ArraySource([grey(0)]), Simulated(grey(1), released, live=True))
    player.open("clip")
    seen = player.wait(-1, PATIENCE).serial
    player.open("0")
    with pytest.raises(PromptError, match="click again"):
        player.click(Click(1, 20, 20, 1), seen)
    assert player.wait(-1, PATIENCE).result is None


@pytest.mark.parametrize("seen", [0, 2])
def test_a_click_on_another_frame_while_paused(player, open_clip, seen):
    open_clip()
    with pytest.raises(PromptError, match="click again"):
        player.click(Click(1, 20, 20, 1), seen)


def test_a_source_that_fails_pauses_and_says_so(player, simulate):
    simulate(Simulated(grey(1), grey(2), failing(MediaError("unplugged")), live=False))
    player.open("clip")
    player.play()
    last = watch(player, lambda view: view.message)[-1]
    assert (last.message, last.playing, last.number) == ("unplugged", False, 1)


def test_after_the_end(session):
    with playing(session) as player:
        waiting = []
        thread = threading.Thread(target=lambda: waiting.append(error_of(player)))
        thread.start()
    thread.join(PATIENCE)
    assert waiting == ["sam2edge ui has ended; start it again"]
    with pytest.raises(InputError, match="has ended"):
        player.pause()


def error_of(player: Player) -> str:
    """Return the error of waiting for a view while the player ends."""
    version = player.wait(-1, PATIENCE).version
    with pytest.raises(InputError) as caught:
        player.wait(version, PATIENCE)
    return str(caught.value)
