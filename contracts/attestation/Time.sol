// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Turns civil dates into unix seconds.
library Time {
    /// @notice Counts the seconds from 1970 to a moment of the proleptic Gregorian calendar (UTC).
    function unixOf(uint256 year, uint256 month, uint256 day, uint256 hour, uint256 minute, uint256 second)
        internal
        pure
        returns (uint256)
    {
        unchecked {
            // Years begin in March, so that the leap day is the last of its year.
            uint256 y = month > 2 ? year : year - 1;
            uint256 m = month > 2 ? month - 3 : month + 9;
            uint256 days_ = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
            return days_ * 86_400 + hour * 3_600 + minute * 60 + second;
        }
    }

    /// @notice Tells whether numbers name a moment from 1970 on.
    function isMoment(uint256 year, uint256 month, uint256 day, uint256 hour, uint256 minute, uint256 second)
        internal
        pure
        returns (bool)
    {
        return year >= 1970 && month >= 1 && month <= 12 && day >= 1 && day <= 31 && hour < 24 && minute < 60 && second < 60;
    }
}
