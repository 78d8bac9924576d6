"""What the tests of drop-ins share: who hears of calls, as libraries above the framework do."""

from torch.overrides import TorchFunctionMode


class Listener(TorchFunctionMode):
    """Keeps the functions that are called while it is active, in `heard`."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.heard.append(func)
        return func(*args, **(kwargs or {}))
