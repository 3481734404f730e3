"""The verbs of bitsadmin, those we have and those we have not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from bitsferry import __version__
from bitsferry.cli import bitsadmin_words as words
from bitsferry.cli.bitsadmin_desk import Desk, Failed, Verb
from bitsferry.cli.bitsadmin_grammar import Misused, NotSupported, Said, Usage
from bitsferry.cli.bitsadmin_properties import (
    GETS,
    SETS,
    read_member,
    read_number,
    read_scheme,
    read_security_flags,
)
from bitsferry.cli.bitsadmin_transfer import monitor, transfer
from bitsferry.cli.job_client import say_that_nobody_works
from bitsferry.cli.passwords import credential, hide
from bitsferry.client.client import Client
from bitsferry.client.credentials import Credential, Scheme, Target
from bitsferry.client.job import Job, JobType
from bitsferry.client.trust import TlsSettings, make_context
from bitsferry.protocol.errors import BitsError, LocalFileMissing

__all__ = ["UNSUPPORTED", "VERBS"]


# Making jobs


def _create(desk: Desk, said: Said) -> None:
    kind = said.one_of("download", "upload", "upload-reply") or "download"
    job = desk.client.create(said.words[0], JobType[kind.upper().replace("-", "_")])
    desk.answer(job.id, f"Created job {job.id}.")


def _add_file(desk: Desk, said: Said) -> None:
    name, remote, local = said.words
    _add(desk, desk.client.find(name), remote, local)


def _add_file_set(desk: Desk, said: Said) -> None:
    name, path = said.words
    job = desk.client.find(name)
    for remote, local in _read_file_set(path):
        _add(desk, job, remote, local)


def _read_file_set(path: str) -> list[tuple[str, str]]:
    """URLs and local names. Raises ValueError for what is none, LocalFileMissing."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise LocalFileMissing(f"{path} cannot be read: {error.strerror}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            remote, *local = line.split(maxsplit=1)
            if not local:
                raise ValueError(f"line {number} of {path} is no URL with a local name after it")
            pairs.append((remote, local[0].strip('"')))
    return pairs


def _add(desk: Desk, job: Job, remote: str, local: str) -> None:
    file = desk.client.add(job, remote, local).files[-1]
    desk.done(f"Added {file.remote} -> {file.local} to job.")


def _replace_remote_prefix(desk: Desk, said: Said) -> None:
    name, old, new = said.words
    before = desk.client.find(name)
    after = desk.client.replace_remote_prefix(before, old, new)
    moved = sum(one.remote != other.remote for one, other in zip(before.files, after.files, strict=True))
    desk.answer(str(moved), f"{moved} URL(s) replaced.")


# What happens to them


def _resume(desk: Desk, said: Said) -> None:
    job = desk.client.resume(desk.client.find(said.words[0]))
    desk.done("Job resumed.")
    say_that_nobody_works(desk.client, [job])


def _act(act: Callable[[Client, Job], object], done: str) -> Callable[[Desk, Said], None]:
    """Do something to a job that needs no more words."""

    def do(desk: Desk, said: Said) -> None:
        act(desk.client, desk.client.find(said.words[0]))
        desk.done(done)

    return do


def _reset(desk: Desk, said: Said) -> None:
    jobs = desk.client.jobs()
    canceled = 0
    for job in jobs:
        try:
            desk.client.cancel(job)
        except BitsError as error:
            desk.complain(f"cancel {job.id}", error)
        else:
            canceled += 1
            desk.done(f"{job.id} canceled.")
    desk.done(f"{canceled} out of {len(jobs)} jobs canceled.")
    if canceled < len(jobs):
        raise Failed


# Looking at them


def _list(desk: Desk, said: Said) -> None:
    spell = words.spell_job_verbosely if "verbose" in said.switches else words.spell_job
    jobs = desk.client.jobs()
    for job in jobs:
        desk.say(spell(job))
    desk.done(f"Listed {len(jobs)} job(s).")


def _info(desk: Desk, said: Said) -> None:
    job = desk.client.find(said.words[0])
    desk.say(words.spell_job_verbosely(job) if "verbose" in said.switches else words.spell_job(job))


def _list_files(desk: Desk, said: Said) -> None:
    files = desk.client.find(said.words[0]).files
    for file in files:
        desk.say(words.spell_file(file))
    desk.done(f"Listed {len(files)} file(s).")


def _get(what: str, answer: Callable[[Job], str]) -> Verb:
    def do(desk: Desk, said: Said) -> None:
        desk.answer(answer(desk.client.find(said.words[0])))

    return Verb(Usage("job"), f"get {what}", do)


def _get_temporary_name(desk: Desk, said: Said) -> None:
    files = desk.client.find(said.words[0]).files
    number = read_number(said.words[1])
    if number >= len(files):
        raise ValueError(f"the job has {len(files)} file(s), the first of which is 0")
    desk.answer(files[number].temporary or words.NULL)


# Changing them


def _set(name: str, usage: str, what: str, read: Callable[..., object]) -> Verb:
    called = what.partition(":")[0].capitalize()

    def do(desk: Desk, said: Said) -> None:
        job, *rest = said.words
        value = read(*rest)
        desk.client.set(desk.client.find(job), **{name: value})
        desk.done(f"{called} set.")

    return Verb(Usage(f"job {usage}"), f"set {what}", do)


def _set_credentials(desk: Desk, said: Said) -> None:
    name, *asked, user = said.words[:4]
    job = desk.client.find(name)
    target, scheme = read_member(Target)(asked[0]), read_scheme(asked[1])
    if user == words.NULL and scheme in (Scheme.NTLM, Scheme.NEGOTIATE):
        given = credential(target, None, scheme)  # the log-on of who runs the job (Learn, SetCredentials)
    elif len(said.words) > 4:
        hide(user + "\0", said.words[4])
        given = Credential(target, scheme, user, said.words[4])
    else:
        given = credential(target, None if scheme is Scheme.BEARER else user, scheme)
    assert given is not None, "with a scheme there is always one"
    desk.client.set_credentials(job, given)
    desk.done("Credentials set.")


def _remove_credentials(desk: Desk, said: Said) -> None:
    name, target, scheme = said.words
    asked = read_member(Target)(target), read_scheme(scheme)
    desk.client.remove_credentials(desk.client.find(name), *asked)
    desk.done("Credentials removed.")


def _make_headers_write_only(client: Client, job: Job) -> None:
    client.set(job, headers_are_write_only=True)


def _set_security_flags(desk: Desk, said: Said) -> None:
    name, *flags = said.words
    job = desk.client.find(name)
    _set_tls(desk.client, job, read_security_flags(job.http.tls, *flags))
    desk.done("Security flags set.")


def _set_client_certificate(desk: Desk, said: Said) -> None:
    name, certificate, *key = said.words
    job = desk.client.find(name)
    tls = replace(
        job.http.tls,
        client_certificate=os.path.abspath(certificate),
        client_key=os.path.abspath(key[0]) if key else None,
    )
    _set_tls(desk.client, job, tls)
    desk.done("Client certificate set.")


def _remove_client_certificate(client: Client, job: Job) -> None:
    _set_tls(client, job, replace(job.http.tls, client_certificate=None, client_key=None))


def _set_tls(client: Client, job: Job, tls: TlsSettings) -> None:
    make_context(tls)  # now, while somebody can mend it, we see whether the files are good
    client.set(job, tls=tls)


# About this program


def _util(desk: Desk, said: Said) -> None:
    for name, reason in _NO_UTIL.items():
        if name in said.switches:
            raise NotSupported(f"/util /{name} is not supported: {reason}")
    if "version" not in said.switches:
        raise Misused("say what: /util /version")
    desk.answer(__version__, f"bitsferry {__version__}")


_NO_UTIL = {
    "repairservice": "there is no service of Windows to repair",
    "enableanalyticchannel": "Windows' event log has no part in this",
    "getieproxy": "there are no settings of Internet Explorer",
    "setieproxy": "there are no settings of Internet Explorer; say /setproxysettings for each job",
}

VERBS: dict[str, Verb] = {
    "transfer": Verb(
        Usage("name [/download|/upload] [/priority level] [/aclflags flags] remote_url local_name ..."),
        "complete transfer: make a job, wait until it is done, complete it",
        transfer,
    ),
    "create": Verb(
        Usage("[/download|/upload|/upload-reply] name"),
        "create job: suspended, without files; a download unless it is said",
        _create,
    ),
    "addfile": Verb(Usage("job remote_url local_name"), "add file to job", _add_file),
    "addfileset": Verb(
        Usage("job text_file"),
        "add files to job: each line of the file is a URL and a local name, or begins with #",
        _add_file_set,
    ),
    "replaceremoteprefix": Verb(
        Usage("job old_prefix new_prefix"),
        "replace remote prefix: of every URL that begins so",
        _replace_remote_prefix,
    ),
    "resume": Verb(Usage("job"), "resume job: let it run", _resume),
    "suspend": Verb(Usage("job"), "suspend job: let it rest", _act(Client.suspend, "Job suspended.")),
    "complete": Verb(
        Usage("job"), "complete job: take what was carried", _act(Client.complete, "Job completed.")
    ),
    "cancel": Verb(Usage("job"), "cancel job: give it up", _act(Client.cancel, "Job canceled.")),
    "reset": Verb(Usage("[/allusers]"), "cancel all jobs", _reset),
    "list": Verb(Usage("[/allusers] [/verbose]"), "list jobs", _list),
    "monitor": Verb(
        Usage("[/allusers] [/refresh seconds]"),
        "monitor jobs: list them every 5 seconds until Ctrl-C",
        monitor,
    ),
    "info": Verb(Usage("job [/verbose]"), "show job", _info),
    "listfiles": Verb(Usage("job"), "list files of job", _list_files),
    **{verb: _get(*answer) for verb, answer in GETS.items()},
    "gettemporaryname": Verb(
        Usage("job file_number"),
        "get temporary name: where a file is until the job is completed; the first is 0",
        _get_temporary_name,
    ),
    **{verb: _set(*value) for verb, value in SETS.items()},
    "makecustomheaderswriteonly": Verb(
        Usage("job"),
        "make custom headers write-only: for good",
        _act(_make_headers_write_only, "Custom headers are write-only."),
    ),
    "setcredentials": Verb(
        Usage("job target scheme user [password]"),
        "set credentials: for SERVER or PROXY, by BASIC, DIGEST, NTLM, NEGOTIATE or BEARER; where the "
        "password is left out, BITSFERRY_PASSWORD has it, or it is asked for; by NTLM or NEGOTIATE, NULL "
        "instead of the user is whoever runs the job",
        _set_credentials,
    ),
    "removecredentials": Verb(Usage("job target scheme"), "remove credentials", _remove_credentials),
    "setsecurityflags": Verb(
        Usage("job flags [crl_file]"),
        "set security flags: 0x1 look into the list of revoked certificates, in PEM form; 0x2, 0x4, 0x8 and "
        "0x10 overlook that a server's certificate has another name, is out of date, is signed by nobody "
        "known, is not for servers",
        _set_security_flags,
    ),
    "setclientcertificatebyfile": Verb(
        Usage("job certificate_file [key_file]"),
        "set client certificate: from files in PEM form, as Windows cannot",
        _set_client_certificate,
    ),
    "removeclientcertificate": Verb(
        Usage("job"),
        "remove client certificate",
        _act(_remove_client_certificate, "Client certificate removed."),
    ),
    "util": Verb(
        Usage("[/version|" + "|".join("/" + name for name in _NO_UTIL) + "]"), "show version", _util
    ),
}

_ACL = "owners and permissions are carried from SMB shares only, and files travel by HTTP here"
_PEERS = "files are neither kept for neighbours nor taken from them; each comes from its own server"
_TOKENS = "helper tokens are log-ons of Windows; say /setcredentials"
_STORES = "there are no certificate stores of Windows; name a file by /setclientcertificatebyfile"

UNSUPPORTED: dict[str, str] = {
    "addfilewithranges": "files are carried whole, not ranges of them",
    "cache": _PEERS,
    "getaclflags": _ACL,
    "gethelpertokenflags": _TOKENS,
    "gethelpertokensid": _TOKENS,
    "getpeercachingflags": _PEERS,
    "getvalidationstate": "a file that has arrived is taken as it is; nobody is asked whether it is good",
    "peercaching": _PEERS,
    "peers": _PEERS,
    "setaclflag": _ACL,
    "setclientcertificatebyid": _STORES,
    "setclientcertificatebyname": _STORES,
    "sethelpertoken": _TOKENS,
    "sethelpertokenflags": _TOKENS,
    "sethttpmethod": "a download says GET and an upload BITS_POST, nothing else",
    "setpeercachingflags": _PEERS,
    "setvalidationstate": "a file that has arrived is taken as it is; nobody is asked whether it is good",
    "takeownership": "a queue holds the jobs of one user, whose they are already",
}
