"""The ways in which a store fails.

StoreDown      unreachable, read-only or busy: wait and try again
AnotherWriter  another process of ours is writing: wait for it
StoreBroken    a StoreDown that does not end by waiting: a damaged file, a missing driver, a wrong address
StoreRefused   it answered and would answer the same next time: a person has to look
"""


class StoreDown(Exception):
    """The store did not take a call: it is unreachable, read-only or busy. Try again later."""


class AnotherWriter(StoreDown):
    """Another process is writing to the mirror; the store itself is well."""


class StoreBroken(StoreDown):
    """The store cannot be used until a person does what `fix` says."""

    def __init__(self, problem: str, fix: str):
        super().__init__(problem)
        self.fix = fix


class StoreRefused(Exception):
    """The store rejected a call: the run does not exist, or the parameter already has another value."""
