"""Makes a stage tiny: the demo's digits as data, a model of two blocks, a few steps. All else stays the stage's."""

DATA = "runs/demo/data"
SIZE = dict(height=8, width=8)
VOCABULARY = 33  # words of the demo's tokenizer
LENGTH = 12


def tiny(config, *, steps, learning_rate=2e-3):
    """Makes the config of a stage tiny, in place, and returns it."""
    config.model.compute_dtype = "float32"
    config.model.mmdit.update(
        depth=2, width=64, heads=2, vocab_size=VOCABULARY, patch_size=2, position_grid=16, position_base=16
    )
    config.model.t5.update(vocab_size=VOCABULARY, width=32, depth=2, heads=2, head_dim=16, mlp_width=64)
    config.model.autoencoder = dict(kind="identity", channels=1)
    config.model.sampling.update(SIZE, text_length=LENGTH, guidance_scale=3.0, sigma_shift=1.0, image_steps=8)
    config.model.sampling.update(caption_length=LENGTH, caption_steps=LENGTH, answer_length=LENGTH, answer_steps=3)
    config.model.sampling.text_order = "confidence"
    config.data.tokenizer = f"{DATA}/tokenizer"
    config.data.update(text_length=LENGTH, read_threads=1, cache_images=2048)
    sources = config.to_dict()["data"]["sources"]
    questions = [s for s in sources if s["task"] == "instruction"][1:]  # the digits have questions of one kind
    config.data.sources = [
        dict(name=s["name"], root=DATA, files="digits.json", task=s["task"], **SIZE)
        for s in sources
        if s not in questions
    ]
    config.optimizer.update(learning_rate=learning_rate, warmup_steps=min(20, steps // 4), ema_decay=0.95)
    config.train.update(steps=steps, global_batch_size=32, save_every=100, keep_every=0)
    return config
