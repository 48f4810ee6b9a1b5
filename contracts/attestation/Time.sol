// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice Turns civil dates into unix seconds.
library Time {
    error MalformedTime();

    /// @notice Reads month, day, hour, minute and second, two digits each and `stride` bytes apart from byte `first` of a word on, and counts
    ///         the seconds from 1970 to that moment of the proleptic Gregorian calendar (UTC).
    function unixOf(uint256 year, uint256 word, uint256 first, uint256 stride) internal pure returns (uint256 unix) {
        unchecked {
            uint256 month = digits(word, first);
            uint256 day = digits(word, first + stride);
            require(year >= 1970 && month - 1 < 12 && day - 1 < 31, MalformedTime());
            // Years begin in March, so that the leap day is the last of its year.
            if (month < 3) {
                year--;
                month += 12;
            }
            unix = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month - 457) / 5 + day - 719_469;
            uint256 hour = digits(word, first + 2 * stride);
            uint256 minute = digits(word, first + 3 * stride);
            uint256 second = digits(word, first + 4 * stride);
            require(hour < 24 && minute < 60 && second < 60, MalformedTime());
            unix = unix * 86_400 + hour * 3_600 + minute * 60 + second;
        }
    }

    /// @notice Reads two decimal digits from a byte of a word on.
    function digits(uint256 word, uint256 index) internal pure returns (uint256) {
        unchecked {
            uint256 pair = word >> (240 - 8 * index);
            uint256 tens = ((pair >> 8) & 0xff) - 48;
            uint256 ones = (pair & 0xff) - 48;
            require(tens < 10 && ones < 10, MalformedTime());
            return tens * 10 + ones;
        }
    }
}
