"""Plug-ins for programs that fine-tune by a configuration file and would not take a `PropulsionConfig` as it is.

Each file belongs to one program and imports it, so that it can only be imported where that program is installed.
TRL, sentence-transformers, diffusers and Trainer need none: they take the configuration itself.
"""
