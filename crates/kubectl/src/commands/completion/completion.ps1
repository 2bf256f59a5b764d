# powershell completion for kubectl

Register-ArgumentCompleter -Native -CommandName 'kubectl' -ScriptBlock {
    param($current, $ast, $cursor)
    $words = @($ast.CommandElements | Where-Object { $_.Extent.EndOffset -le $cursor } | ForEach-Object { "$_" } | Select-Object -Skip 1)
    if ($current -eq '') { $words += '""' }
    $program = if (Get-Command kubectl -CommandType Application -ErrorAction SilentlyContinue) { @('kubectl') } else { @('coracle', 'kubectl') }
    $arguments = @($program | Select-Object -Skip 1) + @('__complete') + $words
    $lines = @(Invoke-Expression (($program[0], ($arguments -join ' ')) -join ' ') 2>$null)
    if ($lines.Count -eq 0) { return }
    $directive = [int]($lines[-1].TrimStart(':'))
    if (($directive -band 1) -ne 0) { return }
    $prefix = ''
    if ($current -match '^(-.*=)') { $prefix = $Matches[1] }
    $after = if (($directive -band 2) -ne 0) { '' } else { ' ' }
    $lines | Select-Object -SkipLast 1 | Where-Object { $_ } | ForEach-Object {
        $name, $about = $_.Split("`t", 2)
        if (-not $about) { $about = $name }
        [System.Management.Automation.CompletionResult]::new("$prefix$name$after", $name, 'ParameterValue', $about)
    }
}
