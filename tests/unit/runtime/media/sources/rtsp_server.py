"""An RTSP server of a ball that moves: rtsp://127.0.0.1:PORT/ball. Run by the system's Python, which has PyGObject.

rtsp_server.py PORT; 0 takes a free port, which is printed.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
ball = GstRtspServer.RTSPMediaFactory(shared=True)
if Gst.ElementFactory.find("x264enc"):  # H.264, which most cameras send; its encoder is not in every installation
    encoder = "x264enc tune=zerolatency key-int-max=5 ! rtph264pay name=pay0 pt=96 config-interval=1"
else:
    encoder = "vp8enc deadline=1 keyframe-max-dist=5 ! rtpvp8pay name=pay0 pt=96"
ball.set_launch(f"videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=25/1 ! {encoder}")
server.get_mount_points().add_factory("/ball", ball)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
