"""Workers: each is one long crawl that takes pages of every running job."""
