"""The sizes of the published 2B model: SD3-medium's transformer and autoencoder, T5-XXL's encoder.

A config file uses them as ``config.model.update(published.D_DIT_2B)``.
"""

MMDIT = dict(depth=24, width=1536, heads=24, vocab_size=32100)
T5_XXL = dict(vocab_size=32128, width=4096, depth=24, heads=64, head_dim=64, mlp_width=10240)
AUTOENCODER = dict(kind="kl", channels=16)
SAMPLING = dict(height=512, width=512)

D_DIT_2B = dict(mmdit=MMDIT, t5=T5_XXL, autoencoder=AUTOENCODER, sampling=SAMPLING)
