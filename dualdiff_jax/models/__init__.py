"""The networks: embeddings, attention, joint blocks, the MMDiT, T5's encoder, the autoencoder."""
