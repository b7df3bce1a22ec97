"""A client made of paramiko: PORT USER KEY (run COMMAND | put FROM TO | get FROM TO | serve COMMAND PORT)."""

import shutil
import sys
import threading
import time

import paramiko

port, user, key, what, *arguments = sys.argv[1:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(
    "127.0.0.1", int(port), user, key_filename=key, look_for_keys=False, allow_agent=False
)


def run(command):
    stdin, stdout, stderr = client.exec_command(command)

    def feed():
        shutil.copyfileobj(sys.stdin.buffer, stdin)
        stdin.channel.shutdown_write()

    feeding = threading.Thread(target=feed)
    feeding.start()
    erring = threading.Thread(target=shutil.copyfileobj, args=(stderr, sys.stderr.buffer))
    erring.start()
    shutil.copyfileobj(stdout, sys.stdout.buffer)
    feeding.join()
    erring.join()
    sys.stdout.flush()
    sys.stderr.flush()
    return stdout.channel.recv_exit_status()


def serve(command, to):
    """Starts a server there and connects to it until it answers."""
    client.exec_command(command)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            channel = client.get_transport().open_channel(
                "direct-tcpip", ("localhost", int(to)), ("127.0.0.1", 0)
            )
        except paramiko.ChannelException:
            time.sleep(0.1)
            continue
        said = b"".join(iter(lambda: channel.recv(4096), b""))
        sys.stdout.write(said.decode())
        return 0
    return 1


if what == "run":
    code = run(*arguments)
elif what == "serve":
    code = serve(*arguments)
else:
    # As many scripts do, this takes no leave but to drop the connection.
    getattr(client.open_sftp(), what)(*arguments)
    code = 0
client.close()
sys.exit(code)
