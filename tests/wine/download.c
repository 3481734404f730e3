/* Lets BITS download one file: download.exe URL PATH, 0 when the file is in its place. */

#define COBJMACROS
#include <initguid.h>
#include <windows.h>
#include <bits.h>
#include <stdio.h>

#define PATIENCE 60000 /* milliseconds */
#define PAUSE 50

static int failed(const char *step, HRESULT result)
{
    printf("%s: 0x%08lx\n", step, (unsigned long)result);
    return 1;
}

static void say_why(IBackgroundCopyJob *job)
{
    IBackgroundCopyError *error;
    BG_ERROR_CONTEXT context;
    HRESULT code;

    if (FAILED(IBackgroundCopyJob_GetError(job, &error)))
        return;
    if (SUCCEEDED(IBackgroundCopyError_GetError(error, &context, &code)))
        printf("error 0x%08lx in context %d\n", (unsigned long)code, (int)context);
    IBackgroundCopyError_Release(error);
}

static int finish(IBackgroundCopyJob *job)
{
    BG_JOB_STATE state = BG_JOB_STATE_QUEUED;
    HRESULT result = S_OK;
    int waited;

    for (waited = 0; waited < PATIENCE; waited += PAUSE) {
        result = IBackgroundCopyJob_GetState(job, &state);
        if (FAILED(result))
            return failed("GetState", result);
        if (state == BG_JOB_STATE_TRANSFERRED || state == BG_JOB_STATE_ERROR
            || state == BG_JOB_STATE_TRANSIENT_ERROR)
            break;
        Sleep(PAUSE);
    }
    printf("state %d\n", (int)state);
    if (state != BG_JOB_STATE_TRANSFERRED) {
        say_why(job);
        IBackgroundCopyJob_Cancel(job);
        return 1;
    }
    result = IBackgroundCopyJob_Complete(job);
    return FAILED(result) ? failed("Complete", result) : 0;
}

static int download(IBackgroundCopyManager *manager, const WCHAR *url, const WCHAR *path)
{
    IBackgroundCopyJob *job;
    GUID id;
    HRESULT result;
    int code;

    result = IBackgroundCopyManager_CreateJob(manager, L"a reply", BG_JOB_TYPE_DOWNLOAD, &id, &job);
    if (FAILED(result))
        return failed("CreateJob", result);
    if (FAILED(result = IBackgroundCopyJob_AddFile(job, url, path)))
        code = failed("AddFile", result);
    else if (FAILED(result = IBackgroundCopyJob_Resume(job)))
        code = failed("Resume", result);
    else
        code = finish(job);
    IBackgroundCopyJob_Release(job);
    return code;
}

int wmain(int count, WCHAR **words)
{
    IBackgroundCopyManager *manager;
    HRESULT result;
    int code;

    if (count != 3) {
        printf("download.exe URL PATH\n");
        return 2;
    }
    if (FAILED(result = CoInitializeEx(NULL, COINIT_MULTITHREADED)))
        return failed("CoInitializeEx", result);
    result = CoCreateInstance(&CLSID_BackgroundCopyManager, NULL, CLSCTX_LOCAL_SERVER,
                              &IID_IBackgroundCopyManager, (void **)&manager);
    if (FAILED(result))
        code = failed("CoCreateInstance", result);
    else {
        code = download(manager, words[1], words[2]);
        IBackgroundCopyManager_Release(manager);
    }
    CoUninitialize();
    return code;
}
