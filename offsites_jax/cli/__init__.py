"""The offsites command."""
