"""Data sets, which all come as :class:`~minigslora.datasets.images.Splits` of uint8 images.

``registry`` has them by name. ``folders``, ``imagenet`` and ``detection`` read them from files, by way of
``pictures`` and ``annotations``; ``downloaded`` fetches some, and ``rendered`` draws the mini ones.
"""
