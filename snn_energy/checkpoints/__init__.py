"""Checkpoints: weights with their metadata, loaded without running code from a file."""

from __future__ import annotations

from snn_energy.checkpoints.checkpoint import load_checkpoint, read_metadata, save_checkpoint, sha256_of

__all__ = ["load_checkpoint", "read_metadata", "save_checkpoint", "sha256_of"]
