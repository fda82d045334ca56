"""Models on the Hugging Face hub, by their id or by the address of one of their pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from sam2edge.errors import SourceError
from sam2edge.export.source.weights import reason

_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.pt)(?<!\.pth)(?<!\.safetensors)"
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/"
    rf"(?P<id>{_ID})(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]*))?)?/?(?:[?#].*)?"
)
_UPSTREAM_SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub, or a file in it."""

    id: str
    revision: str | None = None
    file: str = ""

    @staticmethod
    def parse(source: str) -> HubModel | None:
        """Read an id or an address; None for anything else. Addresses of files that are no .pt mean the repository."""
        if re.fullmatch(f"{_ID}/?", source):
            return HubModel(source.rstrip("/"))
        if page := _PAGE.fullmatch(source):
            file = page["file"] or ""
            return HubModel(page["id"], page["revision"], file if file.endswith(_UPSTREAM_SUFFIXES) else "")
        return None

    def download(self, *also: str) -> Path:
        """Return the file, or a directory with the repository's configuration and weights, from the hub or the cache.

        `also` has the names of other files that the directory should have.

        Raises SourceError if it is not available, or if the repository holds upstream's files only.
        """
        try:
            if self.file:
                return Path(huggingface_hub.hf_hub_download(self.id, self.file, revision=self.revision))
            patterns = ["*.json", "*.safetensors", *also]
            directory = Path(
                huggingface_hub.snapshot_download(self.id, revision=self.revision, allow_patterns=patterns)
            )
            if (directory / "config.json").is_file():
                return directory
            files = huggingface_hub.list_repo_files(self.id, revision=self.revision)
        except Exception as error:  # error classes differ between releases of the client
            raise SourceError(
                f"{self.id} is neither a file or directory here nor available from the Hugging Face hub "
                f"({reason(error)}). If this machine cannot reach the hub, run `hf download {self.id} "
                f"--local-dir DIR` on one that can, and give DIR."
            ) from error
        checkpoints = sorted(file for file in files if file.endswith(_UPSTREAM_SUFFIXES))
        if not checkpoints:
            raise SourceError(
                f"{self.id} on the Hugging Face hub is not a model that can be exported: it has no config.json and no "
                ".pt file"
            )
        places = [f"https://huggingface.co/{self.id}/resolve/{self.revision or 'main'}/{file}" for file in checkpoints]
        raise SourceError(
            f"{self.id} on the Hugging Face hub has no config.json, which transformers' layout needs; for upstream's "
            f"layout, give the address of the file: {' or '.join(places)}"
        )
