"""The one exception of `smelt.data`: a single printable line in, a `ValueError` that callers can name out."""


class DataError(ValueError):
    r"""Data, or a file that should hold data, is not what was expected.

    The message is one printable line: what is wrong, where, and what was expected. Names that come from files
    or folders may hold anything, so line breaks and control characters are escaped.

    Parameters
    ----------
    message : str
        What is wrong, where, and what was expected.

    Examples
    --------
    >>> str(DataError("'a\nb.npz': no such file"))
    "'a\\nb.npz': no such file"
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
