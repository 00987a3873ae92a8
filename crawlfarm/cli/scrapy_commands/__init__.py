"""Commands of ``scrapy`` that the project changes; ``COMMANDS_MODULE`` in its settings."""
