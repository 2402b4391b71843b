"""Conformance suites for plug-ins: what each kind of member promises, checked from outside.

    from scalelab.testing.laws import check_law
    def test_mine(tmp_path):
        check_law("mine")

Every suite takes a registered name (or a member), raises AssertionError where a promise is broken,
and is called over our own members by our own tests.
"""
