"""`sam2edge ui`: a web page on this machine to click objects in a video and follow them (docs/ui.md).

`session.py` is what a person does, one call after the other, without threads. `player.py` runs it in one thread, plays
and pauses, and takes calls from others. `server.py` hands that to a browser; `page/` is what the browser gets.
"""
