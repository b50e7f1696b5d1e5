"""The training loop on Ray Train and DeepSpeed, and the encoder that it starts from."""
