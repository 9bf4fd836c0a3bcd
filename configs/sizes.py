"""Sizes of the published model, as fields of the config's sections: SD3-medium's MMDiT, T5 v1.1 XXL's encoder."""

MMDIT = dict(depth=24, width=1536, heads=24, vocab_size=32100)
T5 = dict(vocab_size=32128, width=4096, depth=24, heads=64, head_dim=64, mlp_width=10240)
AUTOENCODER = dict(kind="identity", channels=3)
