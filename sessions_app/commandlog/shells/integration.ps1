# Marks of PowerShell 5.1 and later; see ../marks.py for what they say. One argument of powershell.exe: neither a double
# quote nor a comment at the end of a line may stand in it. Not run on a real node yet.
# Only a terminal that understands escape sequences is told anything.
$global:__fo = @{ nonce = '{{ nonce }}'; n = 0; run = $false; prompt = $null; read = $null; user = [Environment]::UserName };
function global:__fo_encode([string]$text) {
  if ($text.Length -gt 16384) { $text = $text.Substring(0, 16384) };
  $out = New-Object System.Text.StringBuilder;
  foreach ($byte in [Text.Encoding]::UTF8.GetBytes($text)) {
    if ($byte -lt 32 -or $byte -gt 126 -or $byte -eq 37 -or $byte -eq 59) { [void]$out.Append('%' + $byte.ToString('X2')) }
    else { [void]$out.Append([char]$byte) } ;
  } ;
  $out.ToString() ;
} ;
function global:__fo_write([string]$kind, [string]$fields) {
  $global:__fo.n++;
  if ($Host.UI.SupportsVirtualTerminal) {
    [Console]::Write([string][char]27 + ']7717;' + $global:__fo.nonce + ';' + $kind + ';' + $global:__fo.n + $fields + [char]7) ;
  } ;
} ;
function global:__fo_command([string]$line) {
  $global:__fo.run = $true;
  $cut = '';
  if ($line.Length -gt 16384) { $cut = ';cut=1' } ;
  __fo_write 'command' (';text=' + (__fo_encode $line) + $cut + ';cwd=' + (__fo_encode $PWD.Path) + ';user=' + (__fo_encode $global:__fo.user)) ;
} ;
__fo_write 'hello' (';shell=powershell;version=' + (__fo_encode $PSVersionTable.PSVersion.ToString()));
$global:__fo.prompt = $function:prompt;
function global:prompt {
  $ok = $?;
  $code = $global:LASTEXITCODE;
  $exit = 0;
  if (-not $ok) { $exit = 1; if ($code) { $exit = $code } } ;
  if ($global:__fo.run) { $global:__fo.run = $false; __fo_write 'done' (';exit=' + $exit) } ;
  __fo_write 'prompt' (';cwd=' + (__fo_encode $PWD.Path) + ';user=' + (__fo_encode $global:__fo.user) + ';exit=' + $exit);
  $global:LASTEXITCODE = $code;
  & $global:__fo.prompt ;
} ;
if (Get-Module PSReadLine) {
  $global:__fo.read = $function:PSConsoleHostReadLine;
  function global:PSConsoleHostReadLine {
    $line = & $global:__fo.read;
    if ($line -and $line.Trim()) { __fo_command $line } ;
    $line ;
  } ;
} ;
