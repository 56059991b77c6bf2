"""A network as an object file: a module and a processor in; one ``.o`` and one ``.h`` out, for any linker."""
