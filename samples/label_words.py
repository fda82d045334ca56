"""Label what words name in a folder of images, as one COCO dataset whose categories are the words.

    python samples/label_words.py BUNDLE FOLDER OUT.json "red cup" person [--score 0.3]
The bundle needs a word detector. Images that cannot be read are reported and left out.
"""

import argparse
import json
import sys
from pathlib import Path

from sam2edge import ImagePredictor, MediaError, WordDetector, find_images, read_image
from sam2edge.runtime.media import rle
from sam2edge.runtime.media.packed import PackedMask


def annotations(predictor, image, found):
    """Yield a word and the part of a COCO annotation that tells of its mask, for each box that was found."""
    predictor.set_image(image)
    for box, score, word in zip(found.boxes, found.scores, found.words, strict=True):
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        mask = PackedMask.pack(masks[0] > 0)
        bounds = {"bbox": list(mask.bounds), "area": mask.area}
        yield word, {"segmentation": rle.encode(mask), **bounds, "score": float(score), "iscrowd": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("words", nargs="+")
    parser.add_argument("--score", type=float, default=0.3, help="what a box must score")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files, problems = find_images([args.folder])
    categories = [{"id": number, "name": word} for number, word in enumerate(args.words, start=1)]
    data = {"images": [], "annotations": [], "categories": categories}
    with WordDetector(args.bundle) as detector, ImagePredictor(args.bundle) as predictor:
        words = detector.words(args.words)
        for image_id, file in enumerate(files, start=1):
            try:
                image = read_image(file)
            except MediaError as error:
                problems.append(str(error))
                continue
            height, width = image.shape[:2]
            data["images"].append({"id": image_id, "file_name": file.name, "height": height, "width": width})
            for word, part in annotations(predictor, image, detector.detect(image, words, args.score)):
                ids = {"id": len(data["annotations"]) + 1, "image_id": image_id}
                data["annotations"].append({**ids, "category_id": args.words.index(word) + 1, **part})
    args.out.write_text(json.dumps(data))
    print(*problems, sep="\n", file=sys.stderr)
    print(f"{args.out}: {len(data['annotations'])} masks on {len(data['images'])} images, {len(problems)} left out")


if __name__ == "__main__":
    main()
