"""Runs to tables and pictures."""
