"""From a row to the bytes of a message.

``composer`` makes the message of a rule for one row. It takes the words from ``templates`` and the bytes from
``message``. ``environment`` is the sandbox in which templates run, and ``variables`` finds out which columns a template
needs. ``blocks`` finds blocks that no file prints. ``language`` selects the translation. ``headers`` and ``body``
encode the parts of a message. ``calendar`` makes its calendar entry, and ``skeleton`` the lines of that template for a
check at start. ``unsubscribe`` makes and reads the tokens of List-Unsubscribe. ``lint`` finds faults of a finished
message.

The promises: the same row gives the same bytes, in every release. Text from a row never becomes a header, markup or
template code, and never a larger message than the limit.

It may import: ``config``, ``db``, ``recipients``, ``address`` and the modules below these.
"""
