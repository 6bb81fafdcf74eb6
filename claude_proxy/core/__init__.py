"""The words that every other part speaks: conversations, events, errors, models. Pure: no thread, socket or file."""
