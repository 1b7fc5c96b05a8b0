"""The CLI's door: the part of SSM's API that opens sessions, answered by the product, and the plugin's websocket.

`api` answers signed requests, `targets` finds the instance that is meant, `tokens` makes the words that open a stream,
`channel` is the agent's end of a client's data channel, `stream` its websocket, `kept` what outlives their process.
"""
