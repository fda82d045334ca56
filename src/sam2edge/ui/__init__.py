"""`sam2edge ui`: a web page on this machine to click on objects in a video and track them (docs/how-to/ui.md).

`session.py` is what a person does, one call after another, without threads. `player.py` runs it in one thread, plays
and pauses, and takes calls from other threads. `server.py` serves that to a browser, together with `page/`.
"""
