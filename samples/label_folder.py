"""Label everything in a folder of images, as one COCO dataset.

    python samples/label_folder.py BUNDLE FOLDER OUT.json [--points 32] [--stability 0.95]
Images that cannot be read are reported and left out. The only category is "object": SAM 2 does not name what it finds.
"""

import argparse
import json
import sys
from pathlib import Path

from sam2edge import AutomaticMaskGenerator, MediaError, find_images, read_image


def annotation(record, number, image_id):
    """Return a record of the mask generator as a COCO annotation."""
    x, y, width, height = record["bbox"]
    box = [x, y, width + 1, height + 1]  # ours end on the last pixel, COCO's after it
    mask = {"segmentation": record["segmentation"], "area": record["area"], "score": record["predicted_iou"]}
    return {"id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": box, **mask}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--points", type=int, default=32, help="points per side; more find smaller things")
    parser.add_argument("--stability", type=float, default=0.95, help="lower values keep vaguer masks")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files, problems = find_images([args.folder])
    options = {"stability_score_thresh": args.stability, "output_mode": "coco_rle"}
    data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    with AutomaticMaskGenerator(args.bundle, args.points, **options) as generator:
        for image_id, file in enumerate(files, start=1):
            try:
                image = read_image(file)
            except MediaError as error:
                problems.append(str(error))
                continue
            height, width = image.shape[:2]
            data["images"].append({"id": image_id, "file_name": file.name, "height": height, "width": width})
            for record in generator.generate(image):
                data["annotations"].append(annotation(record, len(data["annotations"]) + 1, image_id))
    args.out.write_text(json.dumps(data))
    print(*problems, sep="\n", file=sys.stderr)
    print(f"{args.out}: {len(data['annotations'])} masks on {len(data['images'])} images, {len(problems)} left out")


if __name__ == "__main__":
    main()
