<#
.SYNOPSIS
The BITS service of this Windows uploads to Bitsferry: plain, suspended, cut off, by bitsadmin, for a reply.

.DESCRIPTION
For Windows PowerShell 5.1 and newer, by somebody who is logged on: BITS carries nothing for others.
The server runs in WSL or on another machine: see docs/how-to/real-windows-client.md.

.PARAMETER Linux
Runs a command where the server is. On another machine: { ssh receiver $args }

.PARAMETER Server
Where server.sh is there.

.PARAMETER Url
Where the server listens, as this machine sees it.

.PARAMETER Size
Bytes of the files that are cut off in the middle. A quick machine needs large ones.
#>
[CmdletBinding()]
param(
    [scriptblock] $Linux = { wsl.exe -- $args },
    [string] $Server = '~/bitsferry/tests/windows/server.sh',
    [string] $Url = 'http://127.0.0.1:8080',
    [long] $Size = 1GB
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module BitsTransfer

$name = "bitsferry real client $PID"
$work = Join-Path ([IO.Path]::GetTempPath()) "bitsferry-real-client-$PID"
New-Item -ItemType Directory -Path $work | Out-Null

function Invoke-Server([string] $verb) {
    & $Linux sh $Server $verb | Out-Host
    if ($LASTEXITCODE -ne 0) { throw "server.sh $verb ended with $LASTEXITCODE" }
}

function New-File([string] $file, [long] $bytes) {
    $path = Join-Path $work $file
    $random = [Security.Cryptography.RandomNumberGenerator]::Create()
    $block = New-Object byte[] 4MB
    $stream = [IO.File]::Create($path)
    try {
        for ($left = $bytes; $left -gt 0; $left -= $block.Length) {
            $random.GetBytes($block)
            $stream.Write($block, 0, [int] [Math]::Min($left, $block.Length))
        }
    } finally {
        $stream.Dispose()
        $random.Dispose()
    }
    $path
}

function Start-Upload([string] $path) {
    $to = "$Url/in/" + (Split-Path $path -Leaf)
    Start-BitsTransfer -TransferType Upload -Asynchronous -DisplayName $name -Source $path -Destination $to
}

function Wait-Until([string] $what, [scriptblock] $come) {
    $deadline = (Get-Date).AddMinutes(10)
    while (-not (& $come)) {
        if ((Get-Date) -gt $deadline) { throw "after ten minutes still not: $what" }
        Start-Sleep -Milliseconds 50
    }
}

function Wait-State([guid] $id, [string] $state) {
    Wait-Until "the job is in state $state" {
        $now = Get-BitsTransfer -JobId $id
        if ($now.JobState -eq 'Error') { throw $now.ErrorDescription }
        $now.JobState -eq $state
    }
}

function Wait-Middle([guid] $id) {
    Wait-Until 'a quarter of the file is acknowledged' {
        $now = Get-BitsTransfer -JobId $id
        if ($now.JobState -eq 'Error') { throw $now.ErrorDescription }
        if ($now.JobState -eq 'Transferred') { throw 'it was over before it was cut off: say -Size 8GB' }
        $now.BytesTransferred -gt $now.BytesTotal / 4
    }
}

function Assert-GoesOn([guid] $id, [long] $sent) {
    Resume-BitsTransfer -BitsJob (Get-BitsTransfer -JobId $id) -Asynchronous | Out-Null
    Wait-Until 'the rest is transferred' {
        $now = Get-BitsTransfer -JobId $id
        if ($now.JobState -eq 'Error') { throw $now.ErrorDescription }
        if ($now.BytesTransferred -lt $sent) { throw "it began again: $sent bytes were acknowledged before" }
        $now.JobState -eq 'Transferred'
    }
    Complete-BitsTransfer -BitsJob (Get-BitsTransfer -JobId $id)
}

function Assert-Arrived([string] $path) {
    $file = Split-Path $path -Leaf
    Start-BitsTransfer -DisplayName $name -Source "$Url/in/$file" -Destination "$path.back"
    if ((Get-FileHash "$path.back").Hash -ne (Get-FileHash $path).Hash) { throw "$file arrived damaged" }
    Remove-Item $path, "$path.back"
    Write-Host "ok: $file"
}

# WSL ends when nobody is in it any more, with all that runs there.
$company = if ("$Linux" -match 'wsl') {
    Start-Process wsl.exe -ArgumentList 'sleep', '3600' -WindowStyle Hidden -PassThru
}
try {
    Invoke-Server run

    $path = New-File 'plain.bin' 50MB
    Start-BitsTransfer -TransferType Upload -DisplayName $name -Source $path -Destination "$Url/in/plain.bin"
    Assert-Arrived $path

    $path = New-File 'empty.bin' 0
    Start-BitsTransfer -TransferType Upload -DisplayName $name -Source $path -Destination "$Url/in/empty.bin"
    Assert-Arrived $path

    $path = New-File 'bitsadmin.bin' 50MB
    bitsadmin.exe /transfer $name /upload /priority FOREGROUND "$Url/in/bitsadmin.bin" $path | Out-Host
    if ($LASTEXITCODE -ne 0) { throw "bitsadmin ended with $LASTEXITCODE" }
    Assert-Arrived $path

    $path = New-File 'suspended.bin' $Size
    $id = (Start-Upload $path).JobId
    Wait-Middle $id
    Suspend-BitsTransfer -BitsJob (Get-BitsTransfer -JobId $id) | Out-Null
    Wait-State $id 'Suspended'
    Assert-GoesOn $id (Get-BitsTransfer -JobId $id).BytesTransferred
    Assert-Arrived $path

    $path = New-File 'killed.bin' $Size
    $id = (Start-Upload $path).JobId
    Wait-Middle $id
    Invoke-Server kill
    Wait-State $id 'TransientError'
    $sent = (Get-BitsTransfer -JobId $id).BytesTransferred
    Invoke-Server run
    Assert-GoesOn $id $sent
    Assert-Arrived $path

    & $Linux sh $Server can-reply
    if ($LASTEXITCODE -eq 0) {
        $path = New-File 'reply.bin' 50MB
        $job = Start-BitsTransfer -TransferType UploadReply -Asynchronous -Suspended -DisplayName $name `
            -Source $path -Destination "$Url/replies/reply.bin"
        bitsadmin.exe /setreplyfilename $job.JobId.ToString('B') "$path.reply" | Out-Host
        Resume-BitsTransfer -BitsJob $job -Asynchronous | Out-Null
        Wait-State $job.JobId 'Transferred'
        Complete-BitsTransfer -BitsJob (Get-BitsTransfer -JobId $job.JobId)
        if ((Get-Content "$path.reply") -ne (Get-FileHash $path).Hash) { throw 'the reply is another' }
        Write-Host 'ok: reply.bin'
    } else {
        Write-Host 'skipped: upload-reply. This version of bitsferry notifies no application yet.'
    }
} catch {
    & $Linux sh $Server log | Out-Host
    if ("$_" -match '800704DD') {
        Write-Host 'BITS works for users who are logged on interactively, and for service accounts only:'
        Write-Host 'run this at a console, by remote desktop, or as SYSTEM by the Task Scheduler.'
    }
    throw
} finally {
    Get-BitsTransfer | Where-Object DisplayName -EQ $name | Remove-BitsTransfer
    & $Linux sh $Server kill
    if ($company) { Stop-Process -InputObject $company }
    Remove-Item -Recurse -Force $work
}
