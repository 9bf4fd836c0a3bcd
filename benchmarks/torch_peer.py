"""The same model in eager fp32 PyTorch: what a CPU figure is compared with.

Networks: the parity tests' transformer, from diffusers' SD3 blocks, and transformers' T5 encoder. Loops and
training step as the original runs them (arXiv 2501.00289): both heads in every pass, Euler with guidance in one
batch, ancestral sampling that walks a fixed grid of t and calls the networks again once a token has changed.
Where the original leaves time on the table for no reason of its own (no gradient bookkeeping, multi-tensor
optimizer and EMA, no pass over an unchanged batch), the faster form is taken.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from convert.state_dict import to_torch
from dualdiff_jax.config import RunConfig
from dualdiff_jax.objectives.joint import Corrupted
from dualdiff_jax.objectives.masked_diffusion import NEVER
from dualdiff_jax.objectives.time_sampling import LEVELS, T_MIN, TIMESTEPS
from dualdiff_jax.sampling.flow_sampler import sigma_grid
from dualdiff_jax.sampling.masked_sampler import T_END
from tests.parity.reference import ReferenceMMDiT, reference_t5

CorruptedTensors = dict[str, torch.Tensor]  # the fields of ``Corrupted``, latents channels first


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)


class TorchPeer:
    """Networks with our ``weights`` (all leaves, numpy), samplers, and a training step. Works on the CPU."""

    def __init__(self, config: RunConfig, weights: Mapping[str, np.ndarray], *, null_token_ids, mask_token_id: int):
        self.config, self.mask_token_id = config, mask_token_id
        self.null_token_ids = _ids(null_token_ids)
        self.mmdit, self.t5 = ReferenceMMDiT(config.model), reference_t5(config.model)
        state_dict = {key: torch.from_numpy(value) for key, value in to_torch(weights, config.model).items()}
        for network in (self.mmdit, self.t5):
            known = network.state_dict()
            network.load_state_dict({key: state_dict[key] for key in known if key in state_dict}, strict=False)
        self.t5.requires_grad_(any(name.startswith("t5") for name in config.train.trainable))
        parameters = {**dict(self.mmdit.named_parameters()), **dict(self.t5.named_parameters())}
        self.parameters = {key: p for key, p in parameters.items() if p.requires_grad}
        self.updates = 0
        self.optimizer = self._make_optimizer()
        self.ema = [p.detach().clone() for p in self.parameters.values()]

    def denoise(self, latents, timestep, token_ids) -> tuple[torch.Tensor, torch.Tensor]:
        """T5, then the transformer: latents (b, c, h, w) -> velocity of that shape and logits (b, l, v)."""
        return self.mmdit(latents, timestep, self.t5(token_ids).last_hidden_state)

    @torch.inference_mode()
    def evaluate(self, batch: Corrupted) -> tuple[np.ndarray, np.ndarray]:
        """Velocity (b, h, w, c) and logits (b, l, v) of the image batch, for comparison."""
        fields = tensors(batch)
        velocity, logits = self.denoise(fields["noisy_latents"], TIMESTEPS * fields["sigma"], fields["image_token_ids"])
        return velocity.permute(0, 2, 3, 1).numpy(), logits.numpy()

    @torch.inference_mode()
    def text_to_image(self, token_ids: np.ndarray, size: tuple[int, int], steps: int, seed: int) -> torch.Tensor:
        """Latents (b, c, h, w) by Euler with guidance."""
        sampling = self.config.model.sampling
        generator = torch.Generator().manual_seed(seed)
        token_ids = _ids(token_ids)
        text = self.t5(token_ids).last_hidden_state
        null = self.t5(self.null_token_ids[None]).last_hidden_state
        both = torch.cat([null.expand_as(text), text])
        latents = torch.randn(len(token_ids), self.mmdit.channels, *size, generator=generator)
        sigmas = sigma_grid(steps, sampling.sigma_shift).tolist()
        for now, following in zip(sigmas, sigmas[1:], strict=False):
            timestep = torch.full((len(both),), TIMESTEPS * now)
            velocity, _ = self.mmdit(torch.cat([latents, latents]), timestep, both)
            unguided, guided = velocity.chunk(2)
            velocity = unguided + sampling.guidance_scale * (guided - unguided)
            latents = latents + (following - now) * velocity
        return latents

    @torch.inference_mode()
    def image_to_text(self, images: np.ndarray, length: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        """Token ids (b, l) by ancestral sampling from masks alone, and how often the networks ran."""
        generator = torch.Generator().manual_seed(seed)
        latents = self._encode(images)
        token_ids = torch.full((len(latents), length), self.mask_token_id)
        clean = torch.zeros(len(latents))
        grid = torch.linspace(1.0, T_END, steps + 1).tolist()
        probs, evaluations = None, 0
        for t, s in zip(grid, grid[1:], strict=False):
            if probs is None:
                probs = self._masked_log_probs(self.denoise(latents, clean, token_ids)[1]).exp()
                evaluations += 1
            weights = probs * (t - s)
            weights[..., self.mask_token_id] = s
            drawn = (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=-1)
            following = torch.where(token_ids == self.mask_token_id, drawn, token_ids)
            if not torch.equal(following, token_ids):
                token_ids, probs = following, None
        if (token_ids == self.mask_token_id).any():
            best = self._masked_log_probs(self.denoise(latents, clean, token_ids)[1]).argmax(dim=-1)
            token_ids, evaluations = torch.where(token_ids == self.mask_token_id, best, token_ids), evaluations + 1
        return token_ids, evaluations

    def joint_loss(self, batch: CorruptedTensors) -> torch.Tensor:
        """The flow loss plus lambda times the NELBO, both batches in one pass."""
        objective = self.config.objective
        velocity, logits = self.denoise(
            torch.cat([batch["noisy_latents"], batch["text_latents"]]),
            torch.cat([TIMESTEPS * batch["sigma"], torch.zeros_like(batch["t"])]),
            torch.cat([batch["image_token_ids"], batch["noisy_token_ids"]]),
        )
        images = len(batch["sigma"])
        error = (velocity[:images] - batch["velocity"]).square().mean(dim=(1, 2, 3))
        if objective.image_weighting == "sigma_squared":
            error = batch["sigma"].square() * error
        clean = batch["clean_token_ids"]
        log_p = self._masked_log_probs(logits[images:]).gather(-1, clean[..., None])[..., 0]
        counted = batch["is_masked"] & (clean != self.mask_token_id)
        nelbo = -torch.where(counted, log_p, 0.0).sum(dim=-1) / batch["t"]
        return (batch["image_share"] * error).sum() + objective.text_weight * (batch["text_share"] * nelbo).sum()

    def gradients(self, batch: Corrupted) -> tuple[float, dict[str, np.ndarray]]:
        """Loss, and the gradient of every trained parameter by its key."""
        loss = self.joint_loss(tensors(batch))
        found = torch.autograd.grad(loss, self.parameters.values(), allow_unused=True)
        pairs = zip(self.parameters.items(), found, strict=True)
        return loss.item(), {k: np.zeros(p.shape, np.float32) if g is None else g.numpy() for (k, p), g in pairs}

    def train_step(self, batch: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> dict[str, float]:
        """One update from an image batch and a text batch in memory: corrupt, differentiate, clip, AdamW, EMA."""
        optimizer, settings = self.optimizer, self.config.optimizer
        self.updates += 1
        loss = self.joint_loss(self._corrupt(*batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip_norm, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, self.updates / max(settings.warmup_steps, 1))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, list(self.parameters.values()), 1.0 - settings.ema_decay)
        return {"loss": loss.item(), "gradient_norm": norm.item()}

    def _make_optimizer(self) -> torch.optim.AdamW:
        settings = self.config.optimizer
        decayed = [p for p in self.parameters.values() if p.ndim > 1 and p is not self.t5.shared.weight]
        others = [p for p in self.parameters.values() if all(p is not d for d in decayed)]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = (settings.beta1, settings.beta2)
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, foreach=True)

    def _encode(self, images: np.ndarray) -> torch.Tensor:
        """The identity autoencoder: (b, h, w, 3) -> (b, c, h, w)."""
        latents = torch.from_numpy(images).permute(0, 3, 1, 2)
        return latents if self.mmdit.channels == 3 else latents.mean(dim=1, keepdim=True)

    def _masked_log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        is_mask_token = torch.arange(logits.shape[-1]) == self.mask_token_id
        return F.log_softmax(logits.masked_fill(is_mask_token, NEVER), dim=-1)

    def _corrupt(self, image: dict[str, np.ndarray], text: dict[str, np.ndarray]) -> CorruptedTensors:
        """The draws of one step, from the same laws as ours."""
        objective = self.config.objective
        latents, text_latents = self._encode(image["image"]), self._encode(text["image"])
        images, texts = len(latents), len(text_latents)
        noise, u = torch.randn_like(latents), torch.sigmoid(torch.randn(images))
        sigma = 1.0 - (LEVELS * u).floor().clamp_max(LEVELS - 1) / LEVELS
        level = sigma[:, None, None, None]
        dropped = torch.rand(images, 1) < objective.caption_dropout
        t = (T_MIN + (1 - T_MIN) * ((torch.rand(()) + torch.arange(texts)) / texts % 1.0))[torch.randperm(texts)]
        clean, is_answer = _ids(text["token_ids"]), torch.from_numpy(text["is_answer"])
        is_masked = is_answer & (torch.rand(clean.shape) < (1 - T_MIN) * t[:, None])
        every = objective.text_normalization == "all_positions"
        tokens = clean.numel() if every else is_answer.sum().clamp_min(1)
        return {
            "noisy_latents": (1 - level) * latents + level * noise,
            "velocity": noise - latents,
            "sigma": sigma,
            "image_token_ids": torch.where(dropped, self.null_token_ids, _ids(image["token_ids"])),
            "image_share": torch.full((images,), 1.0 / images),
            "text_latents": text_latents,
            "clean_token_ids": clean,
            "noisy_token_ids": clean.masked_fill(is_masked, self.mask_token_id),
            "is_masked": is_masked,
            "t": t,
            "text_share": torch.ones(texts) / tokens,
        }


def tensors(batch: Corrupted) -> CorruptedTensors:
    """Our corrupted batch as torch has it, without what it does not hold."""
    fields = {}
    for name, value in batch._asdict().items():
        if value is None:
            continue
        value = np.array(value)
        tensor = _ids(value) if np.issubdtype(value.dtype, np.integer) else torch.from_numpy(value)
        fields[name] = tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor
    return fields


def _ids(token_ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(token_ids, np.int64))
