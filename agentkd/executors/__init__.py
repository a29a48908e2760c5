"""The tiny networks: trainable, frozen and compiled."""
