"""A ROS 2 node: images and a box in, masks out.

    python samples/ros2_node.py BUNDLE --ros-args -r image:=/camera/image_raw
Subscribes to image (sensor_msgs/Image, rgb8 or bgr8) and box (sensor_msgs/RegionOfInterest, on the next image), and
publishes masks (sensor_msgs/Image, mono8, 255 on the object). Only main() needs ROS 2, and it has never run there.
"""

import sys

import numpy as np

from sam2edge import VideoTracker


def to_rgb(image):
    """Return the pixels of a sensor_msgs/Image as RGB uint8 [H,W,3]; rows may be padded to image.step bytes."""
    order = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0]}[image.encoding]
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    return rows[:, : 3 * image.width].reshape(image.height, image.width, 3)[..., order].copy()


class MaskNode:
    def __init__(self, tracker):
        self.tracker, self.box = tracker, None

    def on_box(self, region):
        x, y = region.x_offset, region.y_offset  # for the next image
        self.box = (x, y, x + region.width, y + region.height)

    def on_image(self, image):
        """Track an image, prompted by the box if there is a new one; return the fields of the mask's message."""
        result = self.tracker.track(to_rgb(image))
        if self.box is not None:
            box, self.box = self.box, None
            if result.object_ids:
                self.tracker.remove(1)
            result = self.tracker.prompt(1, box=box)
        mask = result.masks.any(axis=0).astype(np.uint8) * 255
        fields = {"height": image.height, "width": image.width, "step": image.width, "encoding": "mono8"}
        return {"header": image.header, "data": mask.tobytes(), **fields}


def main(bundle):
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image, RegionOfInterest

    newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # no queue of old images
    rclpy.init(args=sys.argv)
    with VideoTracker(bundle, max_objects=1, min_confidence=0.5) as tracker:
        node, logic = rclpy.create_node("sam2edge"), MaskNode(tracker)
        masks = node.create_publisher(Image, "masks", 1)
        node.create_subscription(RegionOfInterest, "box", logic.on_box, 1)
        node.create_subscription(Image, "image", lambda image: masks.publish(Image(**logic.on_image(image))), newest)
        rclpy.spin(node)


if __name__ == "__main__":
    main(sys.argv[1])
