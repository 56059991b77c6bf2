"""The command ``smelt``: arguments and recipes in; lines, JSON and files out."""
