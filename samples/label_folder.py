"""Label a folder of images with several processes, and count what was found: a call of `sam2edge label`.

    python samples/label_folder.py BUNDLE FOLDER OUT ["red cup, person"]

Everything in the images, or what words name (then the bundle needs a word detector). OUT/coco.json is a COCO dataset,
OUT/report.json says what failed; the same command again goes on where it was interrupted.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from sam2edge.cli import main as sam2edge


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("words", nargs="?", help="what to look for, with commas between")
    args = parser.parse_args()
    mode = ["--words", args.words] if args.words else ["--auto"]
    code = sam2edge(["label", args.bundle, args.folder, *mode, "--layout", "coco", "-o", str(args.out)])
    data = json.loads((args.out / "coco.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    counts = Counter(names[annotation["category_id"]] for annotation in data["annotations"])
    found = ", ".join(f"{count} × {name}" for name, count in counts.items())
    print(f"{len(data['images'])} images: {found or 'nothing'}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
