"""The Space's entry, and `make app`: the page and the API, as `pneumocam serve` starts them."""

try:
    import spaces  # exists on Spaces only; has to be imported before PyTorch, which it changes on ZeroGPU
except ImportError:
    spaces = None

from pneumocam.service import serve

if spaces:
    # ZeroGPU stops a Space without such a function. It is never called: the network answers on the CPU sooner than a
    # GPU could be had, and no visitor's quota is spent.
    spaces.GPU(lambda: None)

if __name__ == "__main__":
    serve()
