"""The random draws of the torch peer's training step, from the same distributions as ours, and its latents."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from dualdiff_jax.config import RunConfig
from dualdiff_jax.objectives.joint import Corrupted
from dualdiff_jax.objectives.time_sampling import LEVELS, T_MIN
from tests.parity.reference import encode_as_sd3

CorruptedTensors = dict[str, torch.Tensor | None]  # ``Corrupted`` flat, latents channels first


class Draws:
    """Draws the corrupted batch of a step. Without an ``autoencoder``, pixels are the latents."""

    def __init__(
        self,
        config: RunConfig,
        null_token_ids: torch.Tensor,
        mask_token_id: int,
        autoencoder: nn.Module | None,
        dtype: torch.dtype,
    ):
        self.config, self.autoencoder, self.dtype = config, autoencoder, dtype
        self.null_token_ids, self.mask_token_id = null_token_ids, mask_token_id
        self._null_text: torch.Tensor | None = None  # computed once, if captions come with their embeddings

    @torch.no_grad()
    def latents(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """(b, h, w, 3) -> (b, c, h', w') fp32, a draw from the posterior."""
        channels, pixels = self.config.model.autoencoder.channels, images.permute(0, 3, 1, 2)
        if self.autoencoder is None:
            return pixels if channels == 3 else pixels.mean(dim=1, keepdim=True)
        side = self.config.model.autoencoder.downscale
        shape = (len(pixels), channels, pixels.shape[2] // side, pixels.shape[3] // side)
        noise = torch.randn(shape, generator=generator, device=pixels.device, dtype=self.dtype)
        return encode_as_sd3(self.autoencoder, pixels.to(self.dtype), noise).float()

    def corrupt(
        self,
        image: dict[str, torch.Tensor],
        text: dict[str, torch.Tensor],
        encode_text: Callable[[torch.Tensor], torch.Tensor],
    ) -> CorruptedTensors:
        """Corrupts both batches of a step; all random draws are made here."""
        objective = self.config.objective
        latents, text_latents = self._clean_latents(image), self._clean_latents(text)
        images, texts, device = len(latents), len(text_latents), latents.device
        noise, u = torch.randn_like(latents), torch.sigmoid(torch.randn(images, device=device))
        sigma = 1.0 - (LEVELS * u).floor().clamp_max(LEVELS - 1) / LEVELS
        level = sigma[:, None, None, None]
        dropped = torch.rand(images, 1, device=device) < objective.caption_dropout
        spread = (torch.rand((), device=device) + torch.arange(texts, device=device)) / texts % 1.0
        t = (T_MIN + (1 - T_MIN) * spread)[torch.randperm(texts, device=device)]
        clean, is_answer = text["token_ids"], text["is_answer"]
        is_masked = is_answer & (torch.rand(clean.shape, device=device) < (1 - T_MIN) * t[:, None])
        is_over_all = objective.text_normalization == "all_positions"
        tokens = clean.numel() if is_over_all else is_answer.sum().clamp_min(1)
        embeddings = image.get("text_embeddings")
        if embeddings is not None:
            if self._null_text is None:
                with torch.no_grad():
                    self._null_text = encode_text(self.null_token_ids[None]).to(embeddings.dtype)
            embeddings = torch.where(dropped[..., None], self._null_text, embeddings)
        return {
            "noisy_latents": (1 - level) * latents + level * noise,
            "velocity": noise - latents,
            "sigma": sigma,
            "image_token_ids": torch.where(dropped, self.null_token_ids, image["token_ids"]),
            "image_share": torch.full((images,), 1.0 / images, device=device),
            "text_latents": text_latents,
            "clean_token_ids": clean,
            "noisy_token_ids": clean.masked_fill(is_masked, self.mask_token_id),
            "is_masked": is_masked,
            "t": t,
            "text_share": torch.ones(texts, device=device) / tokens,
            "image_text_embeddings": embeddings,
        }

    def _clean_latents(self, examples: dict[str, torch.Tensor]) -> torch.Tensor:
        if "image" in examples:
            return self.latents(examples["image"])
        mean, log_variance = (
            examples[name].float().permute(0, 3, 1, 2).contiguous() for name in ("latent_mean", "latent_log_variance")
        )
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def tensors(batch: Corrupted, device: torch.device) -> CorruptedTensors:
    """Our corrupted batch as torch tensors."""
    image, text = batch.image._asdict(), batch.text._asdict()
    flat = {name: image[name] for name in ("noisy_latents", "velocity", "sigma")}
    flat |= {f"image_{name}": image[name] for name in ("token_ids", "share", "text_embeddings")}
    flat |= {name: text[name] for name in ("clean_token_ids", "noisy_token_ids", "is_masked", "t")}
    flat |= {f"text_{name}": text[name] for name in ("latents", "share")}
    fields: CorruptedTensors = {}
    for name, value in flat.items():
        if value is None:
            fields[name] = None
            continue
        value = np.array(value)
        tensor = ids(value) if np.issubdtype(value.dtype, np.integer) else torch.from_numpy(value)
        tensor = tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor
        fields[name] = tensor.to(device)
    return fields


def ids(token_ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(token_ids, np.int64))
