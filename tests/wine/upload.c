/* Uploads a file in one fragment with WinHTTP, which BITS itself speaks through: upload HOST PORT PATH FILE SCHEME USER PASSWORD.

   Prints the status of every packet. */

#include <stdio.h>
#include <stdlib.h>
#include <windows.h>
#include <winhttp.h>

#define PROTOCOL L"BITS-Supported-Protocols: {7df0354d-249b-430f-820d-3d2a9bef4931}\r\n"

#define EMPTY L"Content-Length: 0\r\n" /* else WinHTTP leaves it out */

static HINTERNET connection;
static const wchar_t *path, *user, *password;
static DWORD scheme;
static wchar_t session[100];

static DWORD fail(const char *what)
{
    printf("%s: %lu\n", what, GetLastError());
    exit(1);
}

/* One packet; its answer's status. The credentials are told beforehand, as BITS has them from its job. */
static DWORD say(const wchar_t *headers, void *body, DWORD size)
{
    DWORD status = 0, length = sizeof(status);
    HINTERNET request = WinHttpOpenRequest(connection, L"BITS_POST", path, NULL, WINHTTP_NO_REFERER,
                                           WINHTTP_DEFAULT_ACCEPT_TYPES, 0);
    if (!request)
        return fail("WinHttpOpenRequest");
    if (!WinHttpSetCredentials(request, WINHTTP_AUTH_TARGET_SERVER, scheme, user, password, NULL))
        return fail("WinHttpSetCredentials");
    if (!WinHttpSendRequest(request, headers, -1, body, size, size, 0))
        return fail("WinHttpSendRequest");
    if (!WinHttpReceiveResponse(request, NULL))
        return fail("WinHttpReceiveResponse");
    if (!WinHttpQueryHeaders(request, WINHTTP_QUERY_STATUS_CODE | WINHTTP_QUERY_FLAG_NUMBER, NULL, &status,
                             &length, NULL))
        return fail("WinHttpQueryHeaders");
    length = sizeof(session);
    if (!session[0])
        WinHttpQueryHeaders(request, WINHTTP_QUERY_CUSTOM, L"BITS-Session-Id", session, &length, NULL);
    WinHttpCloseHandle(request);
    printf("%lu\n", status);
    return status;
}

int wmain(int count, wchar_t **told)
{
    wchar_t headers[1000];
    DWORD size, read;
    HINTERNET http;
    HANDLE file;
    void *body;

    if (count != 8)
        return 2;
    path = told[3];
    scheme = wcscmp(told[5], L"ntlm") ? WINHTTP_AUTH_SCHEME_NEGOTIATE : WINHTTP_AUTH_SCHEME_NTLM;
    user = told[6];
    password = told[7];

    file = CreateFileW(told[4], GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return fail("CreateFile");
    size = GetFileSize(file, NULL);
    body = malloc(size);
    if (!body || !ReadFile(file, body, size, &read, NULL) || read != size)
        return fail("ReadFile");
    CloseHandle(file);

    http = WinHttpOpen(L"upload", WINHTTP_ACCESS_TYPE_NO_PROXY, NULL, NULL, 0);
    connection = WinHttpConnect(http, told[1], (INTERNET_PORT)_wtoi(told[2]), 0);
    if (!connection)
        return fail("WinHttpConnect");

    if (say(L"BITS-Packet-Type: Create-Session\r\n" EMPTY PROTOCOL, NULL, 0) != 200)
        return 1;
    swprintf(headers, 1000, L"BITS-Packet-Type: Fragment\r\nBITS-Session-Id: %ls\r\nContent-Range: bytes 0-%lu/%lu\r\n",
             session, size - 1, size);
    if (say(headers, body, size) != 200)
        return 1;
    swprintf(headers, 1000, L"BITS-Packet-Type: Close-Session\r\n" EMPTY L"BITS-Session-Id: %ls\r\n", session);
    return say(headers, NULL, 0) == 200 ? 0 : 1;
}
