"""A job."""


def greet(name: str = "curve") -> None:
    """Says hello."""
    print(f"hello {name}")


JOBS = {"greet": greet}
