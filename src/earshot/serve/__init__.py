"""Servers: one process and one model behind the protocols that clients already speak.

| module | knows |
|---|---|
| `config` | what can be set, and what is refused before anything is opened |
| `engine` | the thread that decodes all streams together |
| `stream_socket`, `simple_sockets`, `realtime` | WebSocket protocols |
| `transcriptions` | the REST interface |
| `wyoming_frames`, `wyoming` | Home Assistant's protocol |
| `access`, `tokens`, `local_only` | who may come in, and that nothing goes out |
| `app`, `server` | puts them together, starts and stops them |

Needs the extra [serve]. Knows nothing of training, and nothing of how words are found.
"""
