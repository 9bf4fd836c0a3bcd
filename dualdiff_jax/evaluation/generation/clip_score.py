"""CLIP score (arXiv 2104.08718): how well images fit the prompts that they were drawn of.

(1)  s_i = 100 cos(E_image, E_text) of image i
(2)  score = max(mean(s), 0), as in torchmetrics
CLIP comes from transformers, which runs it with torch; a text is cut where CLIP's tokens end. The network that papers
call ViT-L/14 is openai/clip-vit-large-patch14, and ViT-B/32 openai/clip-vit-base-patch32.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.evaluation.fid.image_folder import ImageFolder, check_images
from dualdiff_jax.evaluation.generation.image_files import read_listing
from dualdiff_jax.progress import Progress, report

BATCH = 32
FILES = ("config.json", "preprocessor_config.json")

Embed = Callable[[Sequence[np.ndarray], Sequence[str]], list[float]]  # images (h, w, 3) uint8, texts -> scores


class ClipScore:
    """The images of a drawing with their prompts, and CLIP.

    Args:
        images: folder of a benchmark's images, as a drawing wrote it.
        clip: folder of a CLIP in transformers' format, with its tokenizer and its image processor.

    Raises:
        UserError: a package, a file or an image is missing or damaged; before CLIP is loaded.
    """

    def __init__(self, images: Path, clip: Path):
        if importlib.util.find_spec("torch") is None:
            raise UserError("CLIP score needs torch; pip install -r requirements-evaluation.txt in the checkout")
        if lacking := [name for name in FILES if not (clip / name).is_file()]:
            raise UserError(
                f"{clip}: lacks {', '.join(lacking)}; give a folder of CLIP, such as a download of "
                "openai/clip-vit-large-patch14"
            )
        self._prompts = read_listing(images)
        self._folder = ImageFolder(images, tuple(self._prompts))
        check_images(self._folder, self._folder.names, alike=True)
        self._clip = clip

    def scores(self, progress: Progress | None = None) -> dict[str, float]:
        """Name -> score of each image, by (1).

        Args:
            progress: called after each batch with (images finished, images in all).

        Raises:
            UserError: CLIP cannot be loaded.
        """
        embed = _load(self._clip)
        names, found = self._folder.names, {}
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            scores = embed([self._folder.read(name) for name in batch], [self._prompts[name] for name in batch])
            found |= dict(zip(batch, scores, strict=True))
            report(progress, len(found), len(names))
        return found


def _load(folder: Path) -> Embed:
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor: Any = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: holds no CLIP that transformers can load ({reason(error)})") from error
    model = model.to(device).eval()

    @torch.no_grad()
    def embed(images: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        longest = model.config.text_config.max_position_embeddings
        tokens = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=longest)
        pixels = processor(images=list(images), return_tensors="pt")
        output = model(**tokens.to(device), **pixels.to(device))
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        return (100 * cosine).tolist()

    return embed
