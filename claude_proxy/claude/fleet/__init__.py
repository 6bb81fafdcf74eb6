"""The children of the proxy: who has which, who starts and ends them, and with which flags."""
