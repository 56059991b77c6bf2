"""A network as C99 source: a module in; one ``.c`` and one ``.h`` out, for any C compiler."""
