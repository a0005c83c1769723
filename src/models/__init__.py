"""Networks, heads, pretrained weights and frozen features."""
