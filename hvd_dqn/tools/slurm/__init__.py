"""Batch scripts for Slurm, from what a job is and what is particular to a cluster."""
