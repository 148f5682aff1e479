"""Programs that tests run in the network namespaces of containers, as texts for this machine's Python."""

UDP_ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 5300))
print("ready", flush=True)
while True:
    data, client = server.recvfrom(100)
    server.sendto(data, client)
"""
UDP_ASK = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.sendto(b"echo", (sys.argv[1], 5300))
print(client.recv(100).decode())
"""
WHO_ASKS = """
import socket
server = socket.create_server(("0.0.0.0", 5301))
print("ready", flush=True)
while True:
    connection, client = server.accept()
    connection.sendall(client[0].encode())
    connection.close()
"""
ASK_WHO = """
import socket, sys
print(socket.create_connection((sys.argv[1], 5301), 10).makefile().read())
"""
"""Tells which address the other side sees."""
CONNECT = """
import collections, json, socket, sys, time
address, wanted, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3]
served, failed, broken, errors = collections.Counter(), 0, 0, collections.Counter()
begun = time.monotonic()
def stopped():
    try:
        open(stop).close()
    except OSError:
        return False
    return True
while sum(served.values()) + failed < wanted or (stop != "-" and not stopped()):
    made = False
    try:
        with socket.create_connection((address, 80), 10) as connection:
            made = True
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answer = connection.makefile("rb").read().split(b"\\r\\n\\r\\n", 1)[1]
        served[answer.decode().strip()] += 1
    except (OSError, IndexError) as error:
        failed += 1
        broken += made
        errors[repr(error)] += 1
told = {"served": served, "failed": failed, "broken": broken, "errors": errors, "s": time.monotonic() - begun}
print(json.dumps(told))
"""
"""One connection after the other, until so many were made and the file to stop is there."""
PINGS = """
import array, socket, struct, sys, threading, time
addresses, interval_s, out = sys.argv[1].split(","), float(sys.argv[2]), open(sys.argv[3], "w", buffering=1)
pinger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
def request(number):
    head = struct.pack("!BBHHH", 8, 0, 0, 77, number & 65535)
    total = sum(struct.unpack("!4H", head))
    return head[:2] + struct.pack("!H", ~(total + (total >> 16)) & 65535) + head[4:]
def send():
    number, due = 0, time.monotonic()
    while True:
        for address in addresses:
            try:
                pinger.sendto(request(number), (address, 0))
            except OSError:
                pass
        number, due = number + 1, due + interval_s
        time.sleep(max(0, due - time.monotonic()))
threading.Thread(target=send, daemon=True).start()
while True:
    packet, sender = pinger.recvfrom(100)
    if packet[20] == 0 and packet[24:26] == b"\\0\\x4d":
        out.write(f"{sender[0]} {time.monotonic():.6f}\\n")
"""
"""Pings addresses at an interval whatever comes back, and writes each reply's address and time to a file."""
FETCHES = """
import asyncio, sys, time
addresses, interval_s, out = sys.argv[1].split(","), float(sys.argv[2]), open(sys.argv[3], "w", buffering=1)
async def fetch(address):
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection(address, 80)
            writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answer = await reader.read()
            writer.close()
        if answer:
            out.write(f"{address} {time.monotonic():.6f}\\n")
    except (OSError, TimeoutError):
        pass
async def main():
    due, under_way = time.monotonic(), set()
    while True:
        for address in addresses:
            task = asyncio.ensure_future(fetch(address))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        due += interval_s
        await asyncio.sleep(max(0, due - time.monotonic()))
asyncio.run(main())
"""
"""An open-loop HTTP client: asks at an interval whatever comes back, and writes each answer's address and time."""
